/*
 * reboot=1: the guest resets the machine at its end, once
 *
 * At the beginning of both boots, all of the area has to be shared.  A byte of
 * the RTC's memory, which a reset leaves alone, tells the second boot from the
 * first.
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

#define PORT_RTC_INDEX          0x70
#define PORT_RTC_DATA           0x71
#define RTC_BYTE                0x7f    /* no firmware uses it */
#define RTC_REBOOTED            0xb2

#define PORT_RESET_CONTROL      0xcf9
#define RESET_SYSTEM            0x06

static bool rebooted(void)
{
    outb(PORT_RTC_INDEX, RTC_BYTE);
    return inb(PORT_RTC_DATA) == RTC_REBOOTED;
}

void reboot_begin(void)
{
    uint32_t page;

    model_init(model_pages(), true);
    for (page = 0; page < model_pages(); page += model_pages() / 8) {
        verify_page(page);
    }
    print("summary boot=%u dma-ok=%u\n", rebooted() ? 2 : 1, count.dma_ok);
    if (opt.pause) {
        wait_for_host();
    }
}

void reboot_once(void)
{
    if (rebooted()) {
        return;
    }
    outb(PORT_RTC_DATA, RTC_REBOOTED);
    outb(PORT_RESET_CONTROL, RESET_SYSTEM);
    halt();
}
