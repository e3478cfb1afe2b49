//! Hardware-reduced ACPI 6.5: how the guest finds its CPUs, interrupts, devices and off switch.
//!
//! RSDP, XSDT, FADT, MADT and DSDT, in the BIOS area where firmware would have put them. The
//! DSDT alone announces the virtio-mmio devices (`LNRO0005`): a kernel that also read of them on
//! its command line would register each twice.

use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{
    EnabledStatus, IoApic, LocalInterruptController, MADT, ProcessorLocalApic,
};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use acpi_tables::{Aml, aml};
use aerostat_devices::power::{ACPI_RESET_VALUE, S5_SLEEP_TYPE};
use aerostat_devices::{GuestMemory, virtio};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::layout;

const OEM_ID: [u8; 6] = *b"AEROST";
const OEM_TABLE_ID: [u8; 8] = *b"AEROSTAT";
const OEM_REVISION: u32 = 1;
/// The revision of a DSDT whose integers have 64 bits.
const DSDT_REVISION: u8 = 2;
/// The header of a system description table.
const SDT_HEADER_LENGTH: u32 = 36;

/// IA-PC boot architecture flags (§5.2.9.3): no VGA, no CMOS clock; and since their bits are
/// clear, no legacy devices and no keyboard controller to probe for.
const BOOT_ARCH_NO_VGA: u16 = 1 << 2;
const BOOT_ARCH_NO_CMOS_RTC: u16 = 1 << 5;

/// What the power button is notified of (§5.6.6): S0 power button pressed.
const BUTTON_PRESSED: u8 = 0x80;

/// The ACPI tables cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They do not fit into the BIOS area.
    #[error("The ACPI tables do not fit below 1 MiB")]
    Space,
    /// Guest memory could not be written.
    #[error("Cannot write the ACPI tables to guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// What the tables describe.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Platform {
    pub(crate) cpus: u8,
    pub(crate) serial: bool,
    /// virtio-mmio devices: the n-th has the n-th page and GSI.
    pub(crate) virtio_devices: u8,
}

/// Where the n-th virtio device has its registers, and its GSI.
pub(crate) fn virtio_slot(index: u8) -> (u64, u8) {
    let address = layout::VIRTIO_MMIO_START + u64::from(index) * virtio::mmio::LENGTH;
    (address, layout::VIRTIO_FIRST_GSI + index)
}

/// Writes all tables; returns the address of the RSDP.
pub(crate) fn write(platform: Platform, memory: &GuestMemory) -> Result<GuestAddress, AcpiError> {
    // The RSDP is found by its alignment of 16; the tables follow it.
    let mut writer = Writer {
        memory,
        next: layout::ACPI_START + Rsdp::len() as u64,
    };
    let dsdt = writer.append(&dsdt(platform))?;
    let fadt = writer.append(&bytes(&fadt(dsdt)))?;
    let madt = writer.append(&bytes(&madt(platform)))?;
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = writer.append(&bytes(&xsdt))?;
    let rsdp = GuestAddress(layout::ACPI_START);
    memory.write_slice(&bytes(&Rsdp::new(OEM_ID, xsdt)), rsdp)?;
    Ok(rsdp)
}

struct Writer<'a> {
    memory: &'a GuestMemory,
    next: u64,
}

impl Writer<'_> {
    fn append(&mut self, table: &[u8]) -> Result<u64, AcpiError> {
        let at = self.next.next_multiple_of(16);
        let end = at + table.len() as u64;
        if end > layout::ACPI_END {
            return Err(AcpiError::Space);
        }
        self.memory.write_slice(table, GuestAddress(at))?;
        self.next = end;
        Ok(at)
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn io_register(port: u16) -> GAS {
    GAS::new(
        AddressSpace::SystemIo,
        8,
        0,
        AccessSize::ByteAccess,
        port.into(),
    )
}

fn fadt(dsdt: u64) -> acpi_tables::fadt::FADT {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton);
    fadt.iapc_boot_arch = (BOOT_ARCH_NO_VGA | BOOT_ARCH_NO_CMOS_RTC).into();
    fadt.sleep_control_reg = io_register(layout::ACPI_PORT);
    fadt.sleep_status_reg = io_register(layout::ACPI_PORT + 1);
    fadt.reset_reg = io_register(layout::ACPI_PORT + 2);
    fadt.reset_value = ACPI_RESET_VALUE;
    fadt.finalize()
}

fn madt(platform: Platform) -> MADT {
    let local = LocalInterruptController::Address(layout::LOCAL_APIC);
    let mut madt = MADT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION, local);
    for cpu in 0..platform.cpus {
        madt.add_structure(ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled));
    }
    madt.add_structure(IoApic::new(0, layout::IO_APIC, 0));
    madt
}

fn dsdt(platform: Platform) -> Vec<u8> {
    let mut body = Vec::new();
    let s5 = aml::Package::new(vec![&S5_SLEEP_TYPE, &0u8, &0u8, &0u8]);
    aml::Name::new("_S5_".into(), &s5).to_aml_bytes(&mut body);
    power_button(&mut body);
    panic_port(&mut body);
    if platform.serial {
        serial_port(&mut body);
    }
    for index in 0..platform.virtio_devices {
        virtio_device(index, &mut body);
    }
    let mut table = Sdt::new(
        *b"DSDT",
        SDT_HEADER_LENGTH,
        DSDT_REVISION,
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
    );
    table.append_slice(&body);
    table.as_slice().to_vec()
}

/// `\_SB_.PWRB`, a control method power button (PNP0C0C), and `\_SB_.GED_`, the Generic Event
/// Device (§5.6.9) whose one interrupt means that the button was pressed.
fn power_button(body: &mut Vec<u8>) {
    aml::Device::new(
        "_SB_.PWRB".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C0C")),
            &aml::Name::new("_UID".into(), &aml::ZERO),
        ],
    )
    .to_aml_bytes(body);
    let interrupt = edge_interrupt(layout::POWER_BUTTON_GSI);
    // From the root: a name of two parts is not searched for upwards.
    let button = aml::Path::new("\\_SB_.PWRB");
    aml::Device::new(
        "_SB_.GED_".into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0013"),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt])),
            &aml::Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&aml::Notify::new(&button, &BUTTON_PRESSED)],
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// `\_SB_.PEVT`: QEMU's panic port.
fn panic_port(body: &mut Vec<u8>) {
    let port = aml::IO::new(layout::PANIC_PORT, layout::PANIC_PORT, 1, 1);
    aml::Device::new(
        "_SB_.PEVT".into(),
        vec![
            &aml::Name::new("_HID".into(), &"QEMU0001"),
            &aml::Name::new("_UID".into(), &aml::ZERO),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&port])),
        ],
    )
    .to_aml_bytes(body);
}

/// `\_SB_.COM1`: a 16550A (PNP0501).
fn serial_port(body: &mut Vec<u8>) {
    let ports = aml::IO::new(layout::SERIAL_PORT, layout::SERIAL_PORT, 0, 8);
    let interrupt = edge_interrupt(layout::SERIAL_GSI);
    aml::Device::new(
        "_SB_.COM1".into(),
        vec![
            &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
            &aml::Name::new("_UID".into(), &0u8),
            &aml::Name::new("_DDN".into(), &"COM1"),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&ports, &interrupt]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// `\_SB_.VIOn`: a virtio-mmio device (virtio 1.2 §4.2.1; the ACPI id is Linaro's).
fn virtio_device(index: u8, body: &mut Vec<u8>) {
    let (address, gsi) = virtio_slot(index);
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    let registers = aml::Memory32Fixed::new(true, narrow(address), narrow(virtio::mmio::LENGTH));
    let interrupt = edge_interrupt(gsi);
    aml::Device::new(
        format!("_SB_.VIO{index:X}").as_str().into(),
        vec![
            &aml::Name::new("_HID".into(), &"LNRO0005"),
            &aml::Name::new("_UID".into(), &index),
            &aml::Name::new("_CCA".into(), &aml::ONE),
            &aml::Name::new(
                "_CRS".into(),
                &aml::ResourceTemplate::new(vec![&registers, &interrupt]),
            ),
        ],
    )
    .to_aml_bytes(body);
}

/// Edge-triggered and active high, as the lines of devices are.
fn edge_interrupt(gsi: u8) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 2 << 20)]).unwrap()
    }

    fn table_at(memory: &GuestMemory, address: u64) -> Vec<u8> {
        let length: u32 = memory.read_obj(GuestAddress(address + 4)).unwrap();
        let mut table = vec![0; usize::try_from(length).unwrap()];
        memory
            .read_slice(&mut table, GuestAddress(address))
            .unwrap();
        table
    }

    fn sum(table: &[u8]) -> u8 {
        table.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    #[test]
    fn every_table_is_reached_from_the_rsdp_and_sums_to_zero() {
        let memory = memory();
        let platform = Platform {
            cpus: 1,
            serial: true,
            virtio_devices: 1,
        };
        let rsdp = write(platform, &memory).unwrap();
        let xsdt: u64 = memory.read_obj(GuestAddress(rsdp.0 + 24)).unwrap();
        let xsdt = table_at(&memory, xsdt);
        let (entries, _) = xsdt[36..].as_chunks::<8>();
        let tables: Vec<_> = entries
            .iter()
            .map(|entry| table_at(&memory, u64::from_le_bytes(*entry)))
            .collect();
        let signatures: Vec<_> = tables.iter().map(|table| table[..4].to_vec()).collect();
        assert_eq!(signatures, [b"FACP".to_vec(), b"APIC".to_vec()]);
        let dsdt = u64::from_le_bytes(tables[0][140..148].try_into().unwrap());
        assert_eq!(&table_at(&memory, dsdt)[..4], b"DSDT");
        assert_eq!(sum(&table_at(&memory, dsdt)), 0);
        assert!(tables.iter().chain([&xsdt]).all(|table| sum(table) == 0));
    }

    #[test]
    fn dsdt_names_each_virtio_device_once() {
        let table = dsdt(Platform {
            cpus: 1,
            serial: false,
            virtio_devices: 2,
        });
        let count = |text: &[u8]| table.windows(text.len()).filter(|w| *w == text).count();
        assert_eq!(
            (count(b"LNRO0005"), count(b"VIO0"), count(b"VIO1")),
            (2, 1, 1)
        );
        assert_eq!(count(b"COM1"), 0);
    }
}
