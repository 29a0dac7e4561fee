# The machine and the devices that check-aarch64.py needs
CONFIG_ARM_VIRT=y
CONFIG_PCI=y
# The ACPI tables of that machine use it, and do not select it.
CONFIG_CXL=y
CONFIG_PCIE_PORT=y
CONFIG_PXB=y
CONFIG_CXL_MEM_DEVICE=y
CONFIG_GUEST_MEMFD_TESTDEV=y
CONFIG_VFIO=y
CONFIG_VFIO_PCI=y
CONFIG_VFIO_USER=y
