/*
 * What the tests of guest_memfd memory share
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 */

#include "qemu/osdep.h"
#include <sys/file.h>
#include "qemu/units.h"
#include "guest-memfd-util.h"
#include "hw/pci/pci_regs.h"
#include "libqos/generic-pcihost.h"
#include "libqos/pci-pc.h"
#include "qobject/qlist.h"

/* The memory hotplug controller of q35 (docs/specs/acpi_mem_hotplug.rst). */
#define MEMHP_BASE     0x0a00
#define MEMHP_SELECTOR (MEMHP_BASE + 0x00)
#define MEMHP_STATUS   (MEMHP_BASE + 0x14)
#define MEMHP_EJECT    0x08

bool gm_is_arm(void)
{
    return !strcmp(qtest_get_arch(), "aarch64");
}

char *gm_machine_args(const char *args)
{
    return g_strdup_printf("-nodefaults -machine %s,memory-backend=m0 %s",
                           gm_is_arm() ? "virt" : "q35", args);
}

QTestState *gm_start(const char *args)
{
    g_autofree char *all = gm_machine_args(args);

    return qtest_init(all);
}

uint64_t gm_ram_base(void)
{
    return gm_is_arm() ? 1 * GiB : 0;
}

QDict *gm_block(QTestState *qts, const char *id)
{
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-guest-memfd' }");
    QDict *found = NULL;
    QListEntry *e;

    g_assert_nonnull(qdict_get_qlist(rsp, "return"));
    QLIST_FOREACH_ENTRY(qdict_get_qlist(rsp, "return"), e) {
        QDict *block = qobject_to(QDict, qlist_entry_obj(e));

        if (!strcmp(qdict_get_str(block, "id"), id)) {
            found = block;
            qobject_ref(found);
        }
    }
    qobject_unref(rsp);
    return found;
}

uint64_t gm_stat(QTestState *qts, const char *id, const char *direction,
                 const char *counter)
{
    QDict *block = gm_block(qts, id);
    uint64_t val = qdict_get_int(qdict_get_qdict(block, direction), counter);

    qobject_unref(block);
    return val;
}

uint64_t gm_bytes(QTestState *qts, const char *id, const char *member)
{
    QDict *block = gm_block(qts, id);
    uint64_t val = qdict_get_int(block, member);

    qobject_unref(block);
    return val;
}

uint64_t gm_listener(QTestState *qts, const char *id, uint64_t gpa,
                     const char *counter)
{
    g_autofree char *at = g_strdup_printf("@0x%" PRIx64, gpa);
    QDict *block = gm_block(qts, id);
    uint64_t val = UINT64_MAX;
    QListEntry *e;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(block, "listeners"), e) {
        QDict *l = qobject_to(QDict, qlist_entry_obj(e));

        if (g_str_has_suffix(qdict_get_str(l, "name"), at)) {
            val = qdict_get_int(l, counter);
        }
    }
    qobject_unref(block);
    g_assert_cmpuint(val, !=, UINT64_MAX);
    return val;
}

static QDict *convert(QTestState *qts, const char *id, uint64_t offset,
                      uint64_t size, bool private)
{
    return qtest_qmp(qts, "{ 'execute': 'x-guest-memfd-convert', 'arguments': {"
                     " 'id': %s, 'offset': %" PRIu64 ", 'size': %" PRIu64 ","
                     " 'private': %i } }", id, offset, size, private);
}

void gm_convert(QTestState *qts, const char *id, uint64_t offset, uint64_t size,
                bool private)
{
    QDict *rsp = convert(qts, id, offset, size, private);

    if (!qdict_haskey(rsp, "return")) {
        g_error("%s", qdict_get_str(qdict_get_qdict(rsp, "error"), "desc"));
    }
    qobject_unref(rsp);
}

void gm_assert_failure(QTestState *qts, QDict *rsp, const char *needle)
{
    const char *desc;

    g_assert_true(qdict_haskey(rsp, "error"));
    desc = qdict_get_str(qdict_get_qdict(rsp, "error"), "desc");
    if (!strstr(desc, needle)) {
        g_error("expected '%s' in the error '%s'", needle, desc);
    }
    qobject_unref(rsp);
}

void gm_convert_fails(QTestState *qts, const char *id, uint64_t offset,
                      uint64_t size, bool private, const char *needle)
{
    gm_assert_failure(qts, convert(qts, id, offset, size, private), needle);
}

typedef struct Run {
    bool private;
    uint64_t size;
} Run;

char *gm_map_string(QTestState *qts, const char *id, unsigned limit)
{
    g_autoptr(GArray) runs = g_array_new(false, false, sizeof(Run));
    GString *s = g_string_new(NULL);
    uint64_t offset = 0;
    bool more = true;

    while (more) {
        QDict *rsp = qtest_qmp(qts, "{ 'execute': 'query-guest-memfd-map',"
                               " 'arguments': { 'id': %s, 'offset': %" PRIu64
                               ", 'limit': %u } }", id, offset, limit);
        QDict *ret = qdict_get_qdict(rsp, "return");
        QListEntry *e;

        g_assert_nonnull(ret);
        g_assert_cmpuint(qlist_size(qdict_get_qlist(ret, "runs")), <=, limit);
        QLIST_FOREACH_ENTRY(qdict_get_qlist(ret, "runs"), e) {
            QDict *r = qobject_to(QDict, qlist_entry_obj(e));
            Run run = { qdict_get_bool(r, "private"), qdict_get_int(r, "size") };
            Run *last = runs->len ?
                        &g_array_index(runs, Run, runs->len - 1) : NULL;

            g_assert_cmpuint(qdict_get_int(r, "offset"), ==, offset);
            offset += run.size;
            if (last && last->private == run.private) {
                last->size += run.size;
            } else {
                g_array_append_val(runs, run);
            }
        }
        more = qdict_haskey(ret, "next-offset");
        if (more) {
            g_assert_cmpuint(qdict_get_int(ret, "next-offset"), ==, offset);
        }
        qobject_unref(rsp);
    }
    for (guint i = 0; i < runs->len; i++) {
        Run *r = &g_array_index(runs, Run, i);

        g_string_append_printf(s, "%s%c%" PRIu64, i ? " " : "",
                               r->private ? 'P' : 'S', r->size);
    }
    return g_string_free(s, false);
}

void gm_assert_map(QTestState *qts, const char *id, const char *expected)
{
    g_autofree char *map = gm_map_string(qts, id, 10);

    g_assert_cmpstr(map, ==, expected);
}

void gm_drain_rcu(QTestState *qts)
{
    gm_assert_failure(qts, qtest_qmp(qts, "{ 'execute': 'device_add',"
                                     " 'arguments': { 'driver': 'none' } }"),
                      "'none' is not a valid device model name");
}

void gm_object_del(QTestState *qts, const char *id)
{
    QDict *block;

    qtest_qmp_assert_success(qts, "{ 'execute': 'object-del', 'arguments': {"
                             " 'id': %s } }", id);
    /* Memory goes an RCU grace period after each of its last users. */
    for (int i = 0; (block = gm_block(qts, id)); i++) {
        g_assert_cmpint(i, <, 10);
        qobject_unref(block);
        gm_drain_rcu(qts);
    }
}

void gm_eject_dimm(QTestState *qts, const char *id, unsigned slot)
{
    qtest_qmp_device_del_send(qts, id);
    qtest_outl(qts, MEMHP_SELECTOR, slot);
    qtest_outb(qts, MEMHP_STATUS, MEMHP_EJECT);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
}

uint32_t gm_config_readl(QTestState *qts, int devfn, uint8_t reg)
{
    QPCIBus *bus = qpci_new_pc(qts, NULL);
    uint32_t val = bus->config_readl(bus, devfn, reg);

    qpci_free_pc(bus);
    return val;
}

void gm_config_writel(QTestState *qts, int devfn, uint8_t reg, uint32_t val)
{
    QPCIBus *bus = qpci_new_pc(qts, NULL);

    bus->config_writel(bus, devfn, reg, val);
    qpci_free_pc(bus);
}

void gm_pam_write(QTestState *qts, unsigned nr, uint8_t val)
{
    QPCIBus *bus = qpci_new_pc(qts, NULL);

    g_assert_cmpuint(nr, <, GM_PAM_REGS);
    bus->config_writeb(bus, QPCI_DEVFN(0, 0), GM_PAM0 + nr, val);
    qpci_free_pc(bus);
}

void gm_preload(const char *library)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *dir = g_path_get_dirname(self);
    g_autofree char *path = NULL;

    if (!library) {
        g_unsetenv("LD_PRELOAD");
        return;
    }
    path = g_build_filename(dir, "../guest-memfd", library, NULL);
    g_assert_cmpint(access(path, R_OK), ==, 0);
    g_setenv("LD_PRELOAD", path, true);
}

uint64_t gm_huge_pages(uint64_t size, const char *counter)
{
    g_autofree char *path =
        g_strdup_printf("/sys/kernel/mm/hugepages/hugepages-%" PRIu64 "kB/%s",
                        size / KiB, counter);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ?
           g_ascii_strtoull(text, NULL, 10) : 0;
}

uint64_t gm_huge_pages_free(uint64_t size)
{
    uint64_t nr_free = gm_huge_pages(size, "free_hugepages");
    uint64_t reserved = gm_huge_pages(size, "resv_hugepages");

    return nr_free - MIN(reserved, nr_free);
}

void gm_check_refused(const char *prefix, const char *args,
                      const char *needle)
{
    g_autofree char *cmd = g_strdup_printf("%s%s -nodefaults -display none -S "
                                           "%s", prefix,
                                           qtest_qemu_binary(NULL), args);
    g_autofree char *out = NULL, *err = NULL;
    int status;

    g_assert_true(g_spawn_command_line_sync(cmd, &out, &err, &status, NULL));
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 1) {
        g_error("'%s' ended with status 0x%x: %s", args, status, err);
    }
    if (!strstr(err, needle)) {
        g_error("'%s': expected '%s' in '%s'", args, needle, err);
    }
}

char *gm_warnings(const char *args)
{
    g_autofree char *cmd =
        g_strdup_printf("sh -c 'echo \"{\\\"execute\\\": "
                        "\\\"qmp_capabilities\\\"} {\\\"execute\\\": "
                        "\\\"quit\\\"}\" | %s -nodefaults -display none -S "
                        "-qmp stdio %s'", qtest_qemu_binary(NULL), args);
    g_autofree char *out = NULL;
    char *err = NULL;
    int status;

    g_assert_true(g_spawn_command_line_sync(cmd, &out, &err, &status, NULL));
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        g_error("'%s' ended with status 0x%x: %s", args, status, err);
    }
    return err;
}

void gm_check_property(QTestState *qts, const char *id, const char *name,
                       const char *value)
{
    g_autofree char *path = g_strdup_printf("/objects/%s", id);
    QDict *rsp = qtest_qmp(qts, "{ 'execute': 'qom-get', 'arguments': {"
                           " 'path': %s, 'property': %s } }", path, name);

    g_assert_cmpstr(qdict_get_str(rsp, "return"), ==, value);
    qobject_unref(rsp);
}

int gm_lock_huge_pages(void)
{
    int fd = open("/sys/kernel/mm/hugepages", O_RDONLY | O_CLOEXEC);

    g_assert_true(fd < 0 || !flock(fd, LOCK_EX));
    return fd;
}

void gm_slot_power_off(QTestState *qts, unsigned slot)
{
    QPCIBus *bus = qpci_new_pc(qts, NULL);
    QPCIDevice *port = qpci_device_find(bus, QPCI_DEVFN(slot, 0));
    uint8_t cap = qpci_find_capability(port, PCI_CAP_ID_EXP, 0);

    g_assert_cmphex(cap, !=, 0);
    qpci_config_writew(port, cap + PCI_EXP_SLTCTL,
                       PCI_EXP_SLTCTL_PWR_IND_OFF | PCI_EXP_SLTCTL_PCC);
    qtest_qmp_eventwait(qts, "DEVICE_DELETED");
    g_free(port);
    qpci_free_pc(bus);
}

static QPCIBus *new_bus(QTestState *qts)
{
    QGenericPCIBus *generic;

    if (!gm_is_arm()) {
        return qpci_new_pc(qts, NULL);
    }
    generic = g_new0(QGenericPCIBus, 1);
    qpci_init_generic(generic, qts, NULL, false);
    return &generic->bus;
}

static void free_bus(QPCIBus *bus)
{
    if (gm_is_arm()) {
        g_free(container_of(bus, QGenericPCIBus, bus));
    } else {
        qpci_free_pc(bus);
    }
}

GmTestdev gm_testdev_open(QTestState *qts, unsigned slot)
{
    GmTestdev t = { .bus = new_bus(qts) };

    t.dev = qpci_device_find(t.bus, QPCI_DEVFN(slot, 0));
    g_assert_nonnull(t.dev);
    g_assert_cmphex(qpci_config_readw(t.dev, PCI_VENDOR_ID), ==, 0x1234);
    g_assert_cmphex(qpci_config_readw(t.dev, PCI_DEVICE_ID), ==, 0x11f0);
    qpci_device_enable(t.dev);
    t.bar = qpci_iomap(t.dev, 0, NULL);
    return t;
}

void gm_testdev_close(GmTestdev *t)
{
    qpci_iounmap(t->dev, t->bar);
    g_free(t->dev);
    free_bus(t->bus);
}

int gm_testdev_command(GmTestdev *t, uint64_t gpa, uint64_t size,
                       uint32_t command)
{
    qpci_io_writeq(t->dev, t->bar, 0x00, gpa);
    qpci_io_writel(t->dev, t->bar, 0x08, size);
    qpci_io_writel(t->dev, t->bar, 0x0c, size >> 32);
    g_assert_cmphex(qpci_io_readq(t->dev, t->bar, 0x08), ==, size);
    qpci_io_writel(t->dev, t->bar, 0x10, command);
    return (int32_t)qpci_io_readl(t->dev, t->bar, 0x18);
}

void gm_assert_failed_event(QTestState *qts, const char *id, uint64_t offset,
                            uint64_t size, bool private, const char *needle)
{
    QDict *event = qtest_qmp_eventwait_ref(qts,
                                           "GUEST_MEMFD_CONVERSION_FAILED");
    QDict *data = qdict_get_qdict(event, "data");

    g_assert_cmpstr(qdict_get_str(data, "id"), ==, id);
    g_assert_cmphex(qdict_get_int(data, "offset"), ==, offset);
    g_assert_cmphex(qdict_get_int(data, "size"), ==, size);
    g_assert_cmpint(qdict_get_bool(data, "private"), ==, private);
    if (!strstr(qdict_get_str(data, "error"), needle)) {
        g_error("expected '%s' in the error '%s'", needle,
                qdict_get_str(data, "error"));
    }
    qobject_unref(event);
}
