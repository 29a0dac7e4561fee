/*
 * What the guest is asked to do: the multiboot command line
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "guest.h"

Options opt = {
    .base = 64,
    .area = 64,
    .ops = 2000,
    .seed = 1,
    .conv = "testdev",
    .chunk = HUGE_PAGE_SIZE / 1024,
    .cpus = 1,
    /* of each CPU: enough for some of them to meet */
    .storm = 2000,
};

static const struct {
    const char *name;
    uint32_t *number;
} numbers[] = {
    { "area", &opt.area },
    { "base", &opt.base },
    { "ops", &opt.ops },
    { "seed", &opt.seed },
    { "faults", &opt.faults },
    { "gap", &opt.gap },
    { "rounds", &opt.rounds },
    { "chunk", &opt.chunk },
    { "mix", &opt.mix },
    { "piece", &opt.piece },
    { "share", &opt.share },
    { "scatter", &opt.scatter },
    { "cpus", &opt.cpus },
    { "storm", &opt.storm },
    { "dimm", &opt.dimm },
};

static const struct {
    const char *name;
    bool *flag;
} flags[] = {
    { "progress", &opt.progress },
    { "pause", &opt.pause },
    { "touch", &opt.touch },
    { "keep", &opt.keep },
    { "reboot", &opt.reboot },
    { "write", &opt.write },
    { "dma", &opt.dma },
    { "svm", &opt.svm },
    { "dies", &opt.dies },
};

static const struct {
    const char *name;
    char *text;
    size_t size;
} names[] = {
    { "conv", opt.conv, sizeof(opt.conv) },
    { "virtio", opt.virtio, sizeof(opt.virtio) },
};

static void copy_name(char *dst, size_t size, const char *value)
{
    size_t i;

    for (i = 0; value[i] && i < size - 1; i++) {
        dst[i] = value[i];
    }
    dst[i] = '\0';
}

static void parse_word(const char *word)
{
    const char *value;
    uint32_t i;

    for (i = 0; i < ARRAY_SIZE(numbers); i++) {
        value = option(word, numbers[i].name);
        if (value) {
            *numbers[i].number = parse_number(numbers[i].name, value);
        }
    }
    for (i = 0; i < ARRAY_SIZE(flags); i++) {
        value = option(word, flags[i].name);
        if (value) {
            *flags[i].flag = parse_number(flags[i].name, value);
        }
    }
    for (i = 0; i < ARRAY_SIZE(names); i++) {
        value = option(word, names[i].name);
        if (value) {
            copy_name(names[i].text, names[i].size, value);
        }
    }
}

/* "path word word ...": words that are not ours are somebody else's */
void parse_cmdline(const char *line)
{
    char word[64];
    uint32_t n = 0;

    for (;; line++) {
        if (*line && *line != ' ') {
            if (n < sizeof(word) - 1) {
                word[n++] = *line;
            }
            continue;
        }
        word[n] = '\0';
        parse_word(word);
        n = 0;
        if (!*line) {
            return;
        }
    }
}
