"""The registers of EL2 in words, for tools/gdb/exeunt.py: pure functions, which know nothing of gdb.

Owns the layouts that nothing in Rust has: the fields of EL2's registers, and the descriptors of stage 2 and of a host's
stage 1. What Rust has (exception classes, fault status codes, names of registers, calls, the black box) is in
tables.json, which a test renders from there (tools/tests/gdb.rs).

Source of all layouts: Arm ARM (DDI 0487L.a), D24.2 for registers, D8.3 for descriptors.
"""

import json
import os
import struct
import unicodedata
from collections import namedtuple

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tables.json"), encoding="utf-8") as _file:
    TABLES = json.load(_file)

MASK = (1 << 64) - 1
# Bytes of Exeunt's own memory.
RESERVATION = TABLES["reservation"]


class Trouble(Exception):
    """What a person is to read instead of an answer."""


def bits(value, high, low):
    """`value<high:low>`."""
    return (value >> low) & ((1 << (high - low + 1)) - 1)


def size(count):
    """A number of bytes as people say it: the largest unit in which it is whole."""
    for shift, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if count and count % (1 << shift) == 0:
            return f"{count >> shift} {unit}"
    return f"{count} bytes"


# --- fields of registers -------------------------------------------------------------------------------------------

# name, high bit, low bit, and what it says: words for a bit that is set, or a function of the field's value. A function
# that gives None has nothing to say of that value.
Field = namedtuple("Field", "name high low words")


def _bit(number, name, words):
    return Field(name, number, number, words)


def _one_of(*words):
    return lambda value: words[value] if value < len(words) else "reserved"


def _cacheable(value):
    kind = ("Non-cacheable", "Write-Back, Read- and Write-Allocate", "Write-Through", "Write-Back, no Write-Allocate")
    return kind[value]


def _shareable(value):
    return ("Non-shareable", "reserved", "Outer Shareable", "Inner Shareable")[value]


OUTPUT_BITS = (32, 36, 40, 42, 44, 48, 52, 56)


def _output_size(value):
    return f"physical addresses of {OUTPUT_BITS[value]} bits"


def _walk_fields(input_name):
    return [
        Field("T0SZ", 5, 0, lambda value: f"{input_name} of {64 - value} bits"),
        Field("IRGN0", 9, 8, lambda value: f"walks, inner caches: {_cacheable(value)}"),
        Field("ORGN0", 11, 10, lambda value: f"walks, outer caches: {_cacheable(value)}"),
        Field("SH0", 13, 12, lambda value: f"walks: {_shareable(value)}"),
        Field("TG0", 15, 14, lambda value: f"granule of {('4', '64', '16', '(reserved)')[value]} KiB"),
    ]


_RES1 = "always 1"

# The layouts hold for HCR_EL2.E2H = 0, which is what Exeunt has, except where one says otherwise.
REGISTERS = {
    "HCR_EL2": [
        _bit(0, "VM", "stage 2 translates what EL1 and EL0 access"),
        _bit(1, "SWIO", "DC ISW acts as DC CISW"),
        _bit(2, "PTW", "a walk of stage 1 in Device memory faults"),
        _bit(3, "FMO", "FIQs are taken to EL2"),
        _bit(4, "IMO", "IRQs are taken to EL2"),
        _bit(5, "AMO", "SErrors are taken to EL2"),
        _bit(6, "VF", "a virtual FIQ is pending"),
        _bit(7, "VI", "a virtual IRQ is pending"),
        _bit(8, "VSE", "a virtual SError is pending"),
        _bit(9, "FB", "maintenance of EL1's is broadcast"),
        Field("BSU", 11, 10, lambda value: f"barriers of EL1's reach at least: {_shareable(value)}" if value else None),
        _bit(12, "DC", "with stage 1 off, accesses are Normal Write-Back"),
        _bit(13, "TWI", "WFI traps"),
        _bit(14, "TWE", "WFE traps"),
        _bit(15, "TID0", "ID registers, group 0, trap"),
        _bit(16, "TID1", "ID registers, group 1, trap"),
        _bit(17, "TID2", "ID registers of the caches trap"),
        _bit(18, "TID3", "ID registers of features trap"),
        _bit(19, "TSC", "SMC traps"),
        _bit(20, "TIDCP", "IMPLEMENTATION DEFINED registers trap"),
        _bit(21, "TACR", "ACTLR_EL1 traps"),
        _bit(22, "TSW", "cache maintenance by set and way traps"),
        _bit(23, "TPCP", "cache maintenance to the point of coherency traps"),
        _bit(24, "TPU", "cache maintenance to the point of unification traps"),
        _bit(25, "TTLB", "TLB maintenance traps"),
        _bit(26, "TVM", "writes of EL1's translation registers trap"),
        _bit(27, "TGE", "exceptions of EL0 go to EL2, and there is no EL1: the host is in virtual EL2"),
        _bit(28, "TDZ", "DC ZVA traps"),
        _bit(29, "HCD", "HVC is undefined"),
        _bit(30, "TRVM", "reads of EL1's translation registers trap"),
        _bit(31, "RW", "EL1 is AArch64"),
        _bit(32, "CD", "stage 2: data is Non-cacheable"),
        _bit(33, "ID", "stage 2: instructions are Non-cacheable"),
        _bit(34, "E2H", "FEAT_VHE: EL2 is a host's with EL0 below it; other registers have another layout then"),
        _bit(35, "TLOR", "the LORegion registers trap"),
        _bit(36, "TERR", "the error record registers trap"),
        _bit(37, "TEA", "synchronous external aborts go to EL2"),
        _bit(38, "MIOCNCE", "mismatched cacheability loses coherency"),
        _bit(39, "TME", "FEAT_TME is allowed"),
        _bit(40, "APK", "keys of pointer authentication do not trap"),
        _bit(41, "API", "instructions of pointer authentication do not trap"),
        _bit(42, "NV", "FEAT_NV: EL1 is a nested hypervisor"),
        _bit(43, "NV1", "FEAT_NV: with E2H = 0 in the nested hypervisor"),
        _bit(44, "AT", "address translation instructions trap"),
        _bit(45, "NV2", "FEAT_NV2: registers are in memory"),
        _bit(46, "FWB", "FEAT_S2FWB: stage 2 decides on the memory type"),
        _bit(47, "FIEN", "fault injection by error records does not trap"),
        _bit(48, "GPF", "granule protection faults go to EL2"),
        _bit(49, "TID4", "ID registers of the caches trap"),
        _bit(50, "TICAB", "IC IALLUIS traps"),
        _bit(51, "AMVOFFEN", "activity monitors have virtual offsets"),
        _bit(52, "TOCU", "cache maintenance to the point of unification traps"),
        _bit(53, "EnSCXT", "SCXTNUM_EL1 and SCXTNUM_EL0 do not trap"),
        _bit(54, "TTLBIS", "TLB maintenance, Inner Shareable, traps"),
        _bit(55, "TTLBOS", "TLB maintenance, Outer Shareable, traps"),
        _bit(56, "ATA", "EL1 and EL0 have allocation tags"),
        _bit(57, "DCT", "with DC, accesses are Tagged"),
        _bit(58, "TID5", "GMID_EL1 traps"),
        _bit(59, "TWEDEn", "a trapped WFE is delayed"),
        Field("TWEDEL", 63, 60, lambda value: f"... by 2^{value + 8} cycles" if value else None),
    ],
    "VTCR_EL2": _walk_fields("intermediate physical addresses (IPA)")
    + [
        Field("SL0", 7, 6, lambda value: f"start level, as TG0 has it: {value}"),
        Field("PS", 18, 16, _output_size),
        _bit(19, "VS", "VMIDs of 16 bits"),
        _bit(21, "HA", "hardware sets the access flag"),
        _bit(22, "HD", "hardware manages the dirty state"),
        _bit(25, "HWU59", "bit 59 of a descriptor is hardware's"),
        _bit(26, "HWU60", "bit 60 of a descriptor is hardware's"),
        _bit(27, "HWU61", "bit 61 of a descriptor is hardware's"),
        _bit(28, "HWU62", "bit 62 of a descriptor is hardware's"),
        _bit(29, "NSW", "walks are Non-secure"),
        _bit(30, "NSA", "outputs are Non-secure"),
        _bit(31, "RES1", _RES1),
        _bit(32, "DS", "FEAT_LPA2: addresses of 52 bits"),
        _bit(33, "SL2", "FEAT_LPA2: starts at level -1"),
        _bit(34, "AssuredOnly", "FEAT_THE: the AssuredOnly bit counts"),
        _bit(36, "S2PIE", "permissions are indirect"),
        _bit(37, "S2POE", "permissions have overlays"),
        _bit(38, "D128", "descriptors of 128 bits"),
    ],
    "VTTBR_EL2": [
        _bit(0, "CnP", "the tables are common to all CPUs"),
        Field("BADDR", 47, 1, lambda value: f"the tables begin at {value << 1:#x}"),
        Field("VMID", 63, 48, lambda value: f"the TLB's name of this host: {value}"),
    ],
    "SCTLR_EL2": [
        _bit(0, "M", "EL2's MMU is on"),
        _bit(1, "A", "misaligned accesses fault"),
        _bit(2, "C", "data is cached"),
        _bit(3, "SA", "a misaligned stack pointer faults"),
        _bit(4, "RES1", _RES1),
        _bit(5, "RES1", _RES1),
        _bit(6, "nAA", "misaligned acquire and release are allowed"),
        _bit(11, "EOS", "an exception return synchronises the context"),
        _bit(12, "I", "instructions are cached"),
        _bit(13, "EnDB", "pointer authentication of data with key B"),
        _bit(16, "RES1", _RES1),
        _bit(18, "RES1", _RES1),
        _bit(19, "WXN", "what is writable is never executed"),
        _bit(21, "IESB", "an exception synchronises errors"),
        _bit(22, "EIS", "an exception synchronises the context"),
        _bit(23, "RES1", _RES1),
        _bit(25, "EE", "data is big-endian"),
        _bit(27, "EnDA", "pointer authentication of data with key A"),
        _bit(28, "RES1", _RES1),
        _bit(29, "RES1", _RES1),
        _bit(30, "EnIB", "pointer authentication of code with key B"),
        _bit(31, "EnIA", "pointer authentication of code with key A"),
        _bit(36, "BT", "branch targets are checked after PACIASP too"),
        _bit(37, "ITFSB", "an exception synchronises tag faults"),
        Field("TCF", 41, 40, _one_of(None, "tag faults are synchronous", "tag faults are asynchronous",
                                     "tag faults of stores are asynchronous")),
        _bit(43, "ATA", "EL2 has allocation tags"),
        _bit(44, "DSSBS", "SSBS is 1 after an exception"),
        _bit(60, "EnTP2", "TPIDR2_EL0 does not trap"),
    ],
    "CPTR_EL2": [
        Field("RES1", 7, 0, lambda value: _RES1 if value == 0xff else f"{value:#x}, should be 0xff"),
        _bit(8, "TZ", "SVE traps (or the CPU has none)"),
        _bit(9, "RES1", _RES1),
        _bit(10, "TFP", "SIMD and floating point trap"),
        _bit(12, "TSM", "SME traps (or the CPU has none)"),
        _bit(13, "RES1", _RES1),
        _bit(20, "TTA", "trace registers trap"),
        _bit(30, "TAM", "activity monitors trap"),
        _bit(31, "TCPAC", "CPACR_EL1 traps"),
    ],
    "MDCR_EL2": [
        Field("HPMN", 4, 0, lambda value: f"EL1 and EL0 have {value} event counters"),
        _bit(5, "TPMCR", "PMCR_EL0 traps"),
        _bit(6, "TPM", "the performance monitors trap"),
        _bit(7, "HPME", "EL2's event counters count"),
        _bit(8, "TDE", "debug exceptions go to EL2"),
        _bit(9, "TDA", "debug registers trap"),
        _bit(10, "TDOSA", "debug registers of the OS lock trap"),
        _bit(11, "TDRA", "MDRAR_EL1 and MDSAR_EL1 trap"),
        Field("E2PB", 13, 12, lambda value: f"the profiling buffer is {('EL2s', '?', 'EL1s, and traps', 'EL1s')[value]}"
              if value else None),
        _bit(14, "TPMS", "statistical profiling traps"),
        _bit(15, "EnSPM", "system performance monitors do not trap"),
        _bit(17, "HPMD", "counters of EL1's do not count at EL2"),
        _bit(19, "TTRF", "trace filter registers trap"),
        _bit(23, "HCCD", "the cycle counter does not count at EL2"),
        Field("E2TB", 25, 24, lambda value: f"the trace buffer is {('EL2s', '?', 'EL1s, and traps', 'EL1s')[value]}"
              if value else None),
        _bit(26, "HLP", "EL2's event counters have 64 bits"),
        _bit(27, "TDCC", "the debug communication channel traps"),
        _bit(28, "MTPME", "multi-threaded counting is allowed"),
        _bit(29, "HPMFZO", "EL2's counters freeze on an overflow"),
        _bit(43, "EBWE", "extended breakpoints are allowed"),
        _bit(50, "EnSTEPOP", "MDSTEPOP_EL1 does not trap"),
    ],
    "CNTHCTL_EL2": [
        _bit(0, "EL1PCTEN", "CNTPCT_EL0, the physical counter, does not trap"),
        _bit(1, "EL1PCEN", "CNTP_*, the physical timer, does not trap"),
        _bit(2, "EVNTEN", "there is an event stream"),
        _bit(3, "EVNTDIR", "... by falling edges"),
        Field("EVNTI", 7, 4, lambda value: f"... of bit {value} of the counter" if value else None),
        _bit(12, "ECV", "CNTPOFF_EL2 counts"),
        _bit(13, "EL1TVT", "CNTV_*, the virtual timer, traps"),
        _bit(14, "EL1TVCT", "CNTVCT_EL0, the virtual counter, traps"),
        _bit(17, "EVNTIS", "the event stream is of the counter's bits from 8 on"),
        _bit(18, "CNTVMASK", "the virtual timer's interrupt is masked"),
        _bit(19, "CNTPMASK", "the physical timer's interrupt is masked"),
    ],
    "TTBR0_EL2": [
        _bit(0, "CnP", "the tables are common to all CPUs"),
        Field("BADDR", 47, 1, lambda value: f"EL2's own tables begin at {value << 1:#x}"),
    ],
    "TCR_EL2": _walk_fields("virtual addresses at EL2")
    + [
        Field("PS", 18, 16, _output_size),
        _bit(20, "TBI", "the top byte of an address is ignored"),
        _bit(21, "HA", "hardware sets the access flag"),
        _bit(22, "HD", "hardware manages the dirty state"),
        _bit(23, "RES1", _RES1),
        _bit(24, "HPD", "attributes in table descriptors do not count"),
        _bit(29, "TBID", "... of addresses of data only"),
        _bit(30, "TCMA", "accesses with tag 0 are unchecked"),
        _bit(31, "RES1", _RES1),
        _bit(32, "DS", "FEAT_LPA2: addresses of 52 bits"),
    ],
    "SPSR_EL2": [
        Field("M", 4, 0, lambda value: f"from {mode(value)}"),
        _bit(6, "F", "FIQs are masked"),
        _bit(7, "I", "IRQs are masked"),
        _bit(8, "A", "SErrors are masked"),
        _bit(9, "D", "debug exceptions are masked"),
        Field("BTYPE", 11, 10, lambda value: f"after an indirect branch of type {value}" if value else None),
        _bit(12, "SSBS", "speculative store bypass is allowed"),
        _bit(13, "ALLINT", "all interrupts are masked"),
        _bit(20, "IL", "illegal execution state"),
        _bit(21, "SS", "software step"),
        _bit(22, "PAN", "EL1 does not access what EL0 can"),
        _bit(23, "UAO", "LDTR and STTR are LDR and STR"),
        _bit(24, "DIT", "timing does not depend on data"),
        _bit(25, "TCO", "tags are not checked"),
        Field("NZCV", 31, 28, lambda value: "flags " + "".join(
            letter if value >> place & 1 else "-" for letter, place in zip("NZCV", (3, 2, 1, 0)))),
    ],
}

MODES = {0b0000: "EL0", 0b0100: "EL1t", 0b0101: "EL1h", 0b1000: "EL2t", 0b1001: "EL2h", 0b1100: "EL3t", 0b1101: "EL3h"}


def mode(value):
    """PSTATE.M, with the bit that says AArch32."""
    if value & 0x10:
        return "AArch32"
    return MODES.get(value & 0xF, f"mode {value:#x}, which there is not")


def pstate(value):
    """SPSR_EL2 in a line, without the mode."""
    letters = [name for name, bit in (("D", 9), ("A", 8), ("I", 7), ("F", 6)) if value >> bit & 1]
    parts = ["masked: " + ", ".join(letters) if letters else "nothing masked"]
    flags = (letter if value >> bit & 1 else "-" for letter, bit in zip("NZCV", (31, 30, 29, 28)))
    parts.append("NZCV " + "".join(flags))
    for field in REGISTERS["SPSR_EL2"]:
        # Masks and flags are said already.
        if field.low not in (0, 6, 7, 8, 9, 28) and bits(value, field.high, field.low):
            parts.append(field.name)
    return "; ".join(parts)


def mair(value):
    """MAIR_ELx: what each of the eight attributes is. Those that are the same as the one before them are left out."""
    found = []
    for index in range(8):
        attribute = bits(value, 8 * index + 7, 8 * index)
        if index and attribute == 0:
            continue
        if attribute & 0xF0 == 0:
            kind = ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")[attribute >> 2 & 3]
        elif attribute == 0xFF:
            kind = "Normal, Write-Back"
        elif attribute == 0x44:
            kind = "Normal, Non-cacheable"
        else:
            kind = f"Normal, {attribute:#04x}"
        found.append((f"Attr{index}", f"{attribute:#04x}", kind))
    return found


def register(name, value):
    """The fields of a register that say something, as (name, value, words), and what bits no field has."""
    if name == "MAIR_EL2":
        return mair(value)
    lines = []
    rest = value
    for field in sorted(REGISTERS[name], key=lambda field: field.low):
        rest &= ~(((1 << (field.high - field.low + 1)) - 1) << field.low)
        found = bits(value, field.high, field.low)
        if callable(field.words):
            words = field.words(found)
            shown = f"{found:#x}"
        else:
            words = field.words if found else None
            shown = "1"
        if words is not None:
            lines.append((field.name, shown, words))
    if rest:
        lines.append(("?", f"{rest:#x}", "bits that this script does not know"))
    # What always is so takes one line.
    always = [line for line in lines if line[2] == _RES1]
    return [line for line in lines if line[2] != _RES1] + ([("RES1", "1", _RES1)] if always else [])


# --- exceptions ----------------------------------------------------------------------------------------------------

CLASSES = {row["number"]: row for row in TABLES["classes"]}
FAULTS = TABLES["faults"]
SYSTEM_REGISTERS = {row["key"]: row["name"] for row in TABLES["registers"]}
# PSTATE's own registers, which virtual EL2 knows without a row of the table (Arm ARM C5.2).
SYSTEM_REGISTERS.update({
    0xC212: "CurrentEL", 0xC210: "SPSel", 0xC213: "PAN", 0xC214: "UAO", 0xDA11: "DAIF", 0xDA10: "NZCV",
    0xDA15: "DIT", 0xDA16: "SSBS", 0xDA17: "TCO",
})

# Of aborts, and of a few others: EC of ESR_EL2.
UNKNOWN, WFX, SVC64, HVC64, SMC64, SYSTEM = 0x00, 0x01, 0x15, 0x16, 0x17, 0x18
INSTRUCTION_ABORTS, DATA_ABORTS = (0x20, 0x21), (0x24, 0x25)
SERROR, BRK = 0x2F, 0x3C

# PSCI (DEN0022, 5.1) and the calls of SMCCC (DEN0028, 7) by their number without the bit of the 64-bit convention.
FIRMWARE_CALLS = {
    0x80000000: "SMCCC_VERSION", 0x80000001: "SMCCC_ARCH_FEATURES", 0x80000002: "SMCCC_ARCH_SOC_ID",
    0x80003FFF: "SMCCC_ARCH_WORKAROUND_3", 0x80007FFF: "SMCCC_ARCH_WORKAROUND_2",
    0x80008000: "SMCCC_ARCH_WORKAROUND_1",
    0x84000000: "PSCI_VERSION", 0x84000001: "CPU_SUSPEND", 0x84000002: "CPU_OFF", 0x84000003: "CPU_ON",
    0x84000004: "AFFINITY_INFO", 0x84000005: "MIGRATE", 0x84000006: "MIGRATE_INFO_TYPE",
    0x84000007: "MIGRATE_INFO_UP_CPU", 0x84000008: "SYSTEM_OFF", 0x84000009: "SYSTEM_RESET",
    0x8400000A: "PSCI_FEATURES", 0x8400000B: "CPU_FREEZE", 0x8400000C: "CPU_DEFAULT_SUSPEND",
    0x8400000D: "NODE_HW_STATE", 0x8400000E: "SYSTEM_SUSPEND", 0x8400000F: "PSCI_SET_SUSPEND_MODE",
    0x84000010: "PSCI_STAT_RESIDENCY", 0x84000011: "PSCI_STAT_COUNT", 0x84000012: "SYSTEM_RESET2",
    0x84000013: "MEM_PROTECT", 0x84000014: "MEM_PROTECT_CHECK_RANGE", 0x84000015: "SYSTEM_OFF2",
}


def call(x0, by_hvc):
    """The name of the call that has this in x0, or None."""
    if by_hvc:
        for row in TABLES["calls"]:
            if row["number"] == (x0 if x0 < 0x80000000 else x0 & 0xFFFFFFFF):
                return row["name"]
    number = x0 & 0xFFFFFFFF
    return FIRMWARE_CALLS.get(number) or FIRMWARE_CALLS.get(number & ~(1 << 30))


def system_register(op0, op1, crn, crm, op2):
    """The name of a system register or instruction, or the encoding as the Arm ARM prints it."""
    key = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
    return SYSTEM_REGISTERS.get(key, f"S{op0}_{op1}_C{crn}_C{crm}_{op2}")


def of_key(key):
    """The same for a key of the black box."""
    return SYSTEM_REGISTERS.get(key) or system_register(
        key >> 14 & 3, key >> 11 & 7, key >> 7 & 15, key >> 3 & 15, key & 7)


def general(number):
    """Xt of an instruction."""
    return "xzr" if number == 31 else f"x{number}"


def class_name(number):
    """EC in words."""
    row = CLASSES.get(number)
    return row["words"] if row else f"exception class {number:#04x}, which the architecture does not define"


def syndrome(esr):
    """ESR_EL2 in words: the class first, then what its ISS says, a line each."""
    number = bits(esr, 31, 26)
    iss = bits(esr, 24, 0)
    lines = [class_name(number)]
    row = CLASSES.get(number)
    if row and row["from"]:
        lines[0] += " " + row["from"]
    if number == WFX:
        lines.append(("WFI", "WFE", "WFIT", "WFET")[iss & 3])
    elif number in (SVC64, HVC64, SMC64, BRK, 0x11, 0x12):
        lines[0] += f" #{iss & 0xFFFF:#x}"
    elif number == SYSTEM:
        name = system_register(bits(iss, 21, 20), bits(iss, 16, 14), bits(iss, 13, 10), bits(iss, 4, 1),
                               bits(iss, 19, 17))
        register_name = general(bits(iss, 9, 5))
        if bits(iss, 21, 20) == 1:
            lines.append(f"{name}, {register_name}")
        elif iss & 1:
            lines.append(f"a read: mrs {register_name}, {name}")
        else:
            lines.append(f"a write: msr {name}, {register_name}")
    elif number in INSTRUCTION_ABORTS + DATA_ABORTS:
        lines.extend(_abort(esr, number in DATA_ABORTS))
    elif number == SERROR:
        if bits(iss, 24, 24):
            lines.append(f"with an IMPLEMENTATION DEFINED syndrome: {iss & 0xFFFFFF:#x}")
        else:
            kinds = ("uncontainable", "unrecoverable", "restartable", "recoverable", "?", "?", "corrected", "?")
            lines.append(kinds[bits(iss, 12, 10)] if iss & 0x3F == 0x11 else "uncategorised")
    elif iss and number != UNKNOWN:
        lines.append(f"ISS {iss:#x}")
    return lines


def _abort(esr, is_data):
    lines = [FAULTS[esr & 0x3F]]
    if bits(esr, 7, 7):
        lines.append("S1PTW: the access was one of the host's own walk of its tables")
    if is_data:
        if bits(esr, 8, 8):
            lines.append("CM: cache maintenance or an address translation")
        else:
            lines.append("WnR: a write" if bits(esr, 6, 6) else "WnR: a read")
        if bits(esr, 24, 24):
            letter = "x" if bits(esr, 15, 15) else "w"
            number = bits(esr, 20, 16)
            sign = ", sign-extended" if bits(esr, 21, 21) else ""
            target = letter + ("zr" if number == 31 else str(number))
            lines.append(f"ISV: {1 << bits(esr, 23, 22)} bytes, {target}{sign}")
        else:
            lines.append("ISV is 0: the syndrome does not say which register, nor how many bytes")
    if far_not_valid(esr):
        lines.append("FnV: FAR_EL2 has nothing")
    return lines


def is_abort(esr):
    """Whether it is an instruction or data abort."""
    return bits(esr, 31, 26) in INSTRUCTION_ABORTS + DATA_ABORTS


def far_not_valid(esr):
    """Whether the abort has left FAR_EL2 alone."""
    return is_abort(esr) and esr & 0x3F == 0x10 and bool(bits(esr, 10, 10))


def has_far(esr):
    """Whether FAR_EL2 is this exception's: aborts, PC alignment, watchpoints."""
    return (is_abort(esr) and not far_not_valid(esr)) or bits(esr, 31, 26) in (0x22, 0x34, 0x35)


def has_hpfar(esr):
    """Whether HPFAR_EL2 is this exception's: translation, access flag and address size faults of stage 2, and a
    permission fault on a walk of stage 1."""
    fault = esr & 0x3F
    return is_abort(esr) and (fault < 0x0C or (0x0C <= fault < 0x10 and bool(bits(esr, 7, 7))))


def fault_ipa(hpfar, far):
    """The IPA that HPFAR_EL2 tells, with the offset in the page that FAR_EL2 has."""
    return (hpfar & 0xFFFFFFFFFF0) << 8 | far & 0xFFF


def classes_named(word):
    """The numbers of the classes that a person means by `word`: a number, or a word as `trapbreak` lists them."""
    text = word.lower()
    if text in CLASS_WORDS:
        return CLASS_WORDS[text]
    try:
        number = int(text, 0)
    except ValueError:
        near = [name for name in CLASS_WORDS if name.startswith(text) or text in name]
        hint = f"; perhaps {near[0]}" if near else ""
        raise Trouble(f"{word}: no class of exceptions is called so{hint}; `trapbreak` alone lists them") from None
    if not 0 <= number < 64:
        raise Trouble(f"{word}: ESR_EL2.EC is a number from 0 to 63")
    return (number,)


CLASS_WORDS = {
    "hvc": (0x16, 0x12), "smc": (0x17, 0x13), "sysreg": (0x18, 0x14), "data-abort": (0x24,),
    "instruction-abort": (0x20,), "undefined": (0x00,), "wfx": (0x01,), "simd": (0x07, 0x19, 0x1D),
    "eret": (0x1A,), "pauth": (0x09, 0x1C), "illegal-state": (0x0E,), "alignment": (0x22, 0x26), "svc": (0x15, 0x11),
    "brk": (0x3C, 0x38), "debug": (0x30, 0x32, 0x34), "mops": (0x27,),
}


# --- vectors -------------------------------------------------------------------------------------------------------

def vector(offset):
    """A vector by its offset in the table (Arm ARM D1.4.1.5)."""
    kind = ("synchronous", "IRQ", "FIQ", "SError")[offset >> 7 & 3]
    source = ("EL2 with SP_EL0", "EL2", "the host, AArch64", "the host, AArch32")[offset >> 9 & 3]
    return f"{kind}, from {source}"


# --- translation ---------------------------------------------------------------------------------------------------

# Shape of a walk: granule and input as log2, the level at which it starts, bits that a descriptor resolves, the address
# of the first table, and whether FEAT_LPA2 has moved the upper bits of addresses.
Shape = namedtuple("Shape", "granule inputs start stride base lpa2 stage2")
# A step of it: the level, the table, the number of the entry, its address, the descriptor.
Step = namedtuple("Step", "level table index address descriptor")
# Where it ends: how (page, block, or why not), output address, size of what the last descriptor stands for.
End = namedtuple("End", "kind output size level descriptor")


def stage2_shape(vtcr, vttbr):
    """What VTCR_EL2 and VTTBR_EL2 say of the walk."""
    if bits(vtcr, 38, 38):
        raise Trouble("VTCR_EL2.D128: descriptors of 128 bits, which this script does not know")
    if bits(vtcr, 32, 32):
        raise Trouble("VTCR_EL2.DS: stage 2 with FEAT_LPA2, which this script does not know")
    granule = {0: 12, 1: 16, 2: 14}.get(bits(vtcr, 15, 14))
    if granule is None:
        raise Trouble("VTCR_EL2.TG0 is 3, which is reserved")
    inputs = 64 - bits(vtcr, 5, 0)
    sl0 = bits(vtcr, 7, 6)
    # With 4 KiB 3 stands for level 3 (FEAT_TTST).
    start = (2, 1, 0, 3)[sl0] if granule == 12 else 3 - sl0
    stride = granule - 3
    below = granule + stride * (3 - start)
    if not below < inputs <= below + stride + 4:
        raise Trouble(f"VTCR_EL2 {vtcr:#x}: a walk of {inputs} bits cannot start at level {start}")
    base = bits(vttbr, 47, 1) << 1
    length = 8 << (inputs - below)
    if base % length:
        raise Trouble(f"VTTBR_EL2 {vttbr:#x}: the first tables have {length:#x} bytes and are not at a multiple of it")
    return Shape(granule, inputs, start, stride, base, False, True)


def stage1_shape(tcr, ttbr, upper):
    """What TCR_EL1 and TTBR0_EL1, or for upper addresses TTBR1_EL1, say of a host's own walk."""
    if upper:
        granule = {1: 14, 2: 12, 3: 16}.get(bits(tcr, 31, 30))
        size_field, disabled = bits(tcr, 21, 16), bits(tcr, 23, 23)
    else:
        granule = {0: 12, 1: 16, 2: 14}.get(bits(tcr, 15, 14))
        size_field, disabled = bits(tcr, 5, 0), bits(tcr, 7, 7)
    half = "upper" if upper else "lower"
    if disabled:
        raise Trouble(f"TCR_EL1 has the walk of {half} addresses turned off")
    if granule is None:
        raise Trouble("TCR_EL1 has a granule that is reserved")
    inputs = 64 - size_field
    if not granule < inputs <= 56:
        raise Trouble(f"TCR_EL1 says that {half} addresses have {inputs} bits, which no walk translates")
    stride = granule - 3
    start = 3 - (inputs - 1 - granule) // stride
    lpa2 = bool(bits(tcr, 59, 59)) and granule != 16
    base = bits(ttbr, 47, 1) << 1
    if lpa2 or (granule == 16 and inputs > 48):
        base = bits(ttbr, 47, 6) << 6 | bits(ttbr, 5, 2) << 48
    return Shape(granule, inputs, start, stride, base, lpa2, False)


def _next_address(shape, descriptor, shift):
    """The address in a descriptor, from bit `shift` on."""
    if shape.lpa2:
        return bits(descriptor, 49, shift) << shift | bits(descriptor, 9, 8) << 50
    address = bits(descriptor, 47, shift) << shift
    if shape.granule == 16 and not shape.stage2 and shape.inputs > 48:
        address |= bits(descriptor, 15, 12) << 48
    return address


def _entry_shift(shape, level):
    return shape.granule + shape.stride * (3 - level)


def kind_of(shape, level, descriptor):
    """What a descriptor is at a level: "table", "page", "block", or why none of them."""
    if not descriptor & 1:
        return "invalid"
    if level == 3:
        return "page" if descriptor & 2 else "reserved"
    if descriptor & 2:
        return "table"
    first_block = {12: 1, 14: 2, 16: 2}[shape.granule] - (1 if shape.lpa2 else 0)
    return "block" if level >= first_block else "reserved"


def walk(shape, address, read):
    """Follows the tables for `address` with `read`, which gives the 8 bytes at a physical address as a number. The
    steps, and the End."""
    steps = []
    if address >> shape.inputs:
        return steps, End(f"an address has {shape.inputs} bits here: translation fault, level 0", None, 0, None, 0)
    table = shape.base
    for level in range(shape.start, 4):
        shift = _entry_shift(shape, level)
        width = (shape.inputs if level == shape.start else shift + shape.stride) - shift
        index = address >> shift & ((1 << width) - 1)
        place = table + 8 * index
        descriptor = read(place)
        steps.append(Step(level, table, index, place, descriptor))
        kind = kind_of(shape, level, descriptor)
        if kind == "table":
            table = _next_address(shape, descriptor, shape.granule)
            continue
        if kind in ("invalid", "reserved"):
            return steps, End(f"{kind} descriptor: translation fault, level {level}", None, 1 << shift, level,
                              descriptor)
        output = _next_address(shape, descriptor, shift) | address & ((1 << shift) - 1)
        return steps, End(kind, output, 1 << shift, level, descriptor)
    raise AssertionError("a descriptor of level 3 is no table")


MEMORY = ("Non-cacheable", "Write-Through", "Write-Back")


def memory_type(attribute):
    """MemAttr of stage 2 (HCR_EL2.FWB = 0)."""
    outer, inner = attribute >> 2, attribute & 3
    if outer == 0:
        return ("Device-nGnRnE", "Device-nGnRE", "Device-nGRE", "Device-GRE")[inner]
    if inner == 0:
        return "reserved"
    if outer == inner:
        return f"Normal, {MEMORY[inner - 1]}"
    return f"Normal, outer {MEMORY[outer - 1]}, inner {MEMORY[inner - 1]}"


def stage2_attributes(descriptor):
    """What a block or page of stage 2 says, as (field, value, words)."""
    access = bits(descriptor, 7, 6)
    xn = bits(descriptor, 54, 53)
    lines = [
        ("MemAttr", f"{bits(descriptor, 5, 2):#x}", memory_type(bits(descriptor, 5, 2))),
        ("S2AP", f"{access}", ("no access", "read only", "write only", "read and write")[access]),
        ("SH", f"{bits(descriptor, 9, 8)}", _shareable(bits(descriptor, 9, 8))),
        ("AF", f"{bits(descriptor, 10, 10)}", "accessed" if bits(descriptor, 10, 10) else "the first access faults"),
        ("XN", f"{xn}", ("the host may execute", "EL1 may not execute, EL0 may", "execute-never",
                         "EL0 may not execute, EL1 may")[xn]),
    ]
    if bits(descriptor, 52, 52):
        lines.append(("Contiguous", "1", "the TLB may take it together with its neighbours"))
    if bits(descriptor, 51, 51):
        lines.append(("DBM", "1", "hardware makes it writable"))
    return lines


def permissions(descriptor):
    """A block or page of stage 2 in three letters, and its type."""
    access = bits(descriptor, 7, 6)
    letters = ("r" if access & 1 else "-") + ("w" if access & 2 else "-")
    letters += ("x", "e", "-", "p")[bits(descriptor, 54, 53)]
    return f"{letters} {memory_type(bits(descriptor, 5, 2))}"


# What the attributes of a leaf are; all else of it is its address.
_ATTRIBUTES = 0xFFF0_0000_0000_0FFC
# More tables than any host's map has here. In a damaged one a table leads to itself, and that map would have no end.
MOST_TABLES = 1 << 14
# A stretch of addresses with the same translation: from start to end (exclusive), how far away the output is, the
# attributes (None where nothing is mapped), and the sizes of the blocks that it is made of, with how many of each.
Range = namedtuple("Range", "start end offset attributes blocks")


def ranges(shape, read_table):
    """The whole map, in order of addresses. `read_table` gives so many descriptors from a physical address on."""
    found = []
    seen = 0

    def add(start, length, output, descriptor, kind):
        offset = None if descriptor is None else output - start
        attributes = None if descriptor is None else descriptor & _ATTRIBUTES
        if found:
            last = found[-1]
            if last.end == start and last.offset == offset and last.attributes == attributes:
                last.blocks[kind] = last.blocks.get(kind, 0) + 1
                found[-1] = last._replace(end=start + length)
                return
        found.append(Range(start, start + length, offset, attributes, {kind: 1}))

    def descend(table, level, first, width):
        nonlocal seen
        seen += 1
        if seen > MOST_TABLES:
            raise Trouble(f"there are more than {MOST_TABLES} tables: one leads back to itself; `s2 ADDRESS` walks "
                          "for one address")
        shift = _entry_shift(shape, level)
        for index, descriptor in enumerate(read_table(table, 1 << width)):
            start = first + (index << shift)
            kind = kind_of(shape, level, descriptor)
            if kind == "table":
                descend(_next_address(shape, descriptor, shape.granule), level + 1, start, shape.stride)
            elif kind in ("page", "block"):
                add(start, 1 << shift, _next_address(shape, descriptor, shift), descriptor, 1 << shift)
            else:
                add(start, 1 << shift, None, None, 1 << shift)

    descend(shape.base, shape.start, 0, shape.inputs - _entry_shift(shape, shape.start))
    return found


def blocks(counts):
    """Of which blocks a range is made."""
    return ", ".join(f"{count} x {size(length)}" for length, count in sorted(counts.items(), reverse=True))


# --- the black box -------------------------------------------------------------------------------------------------

BOX = TABLES["black_box"]
_FORMAT = {1: "B", 2: "H", 4: "I", 8: "Q"}


def record(name, raw):
    """A record of the black box as a dictionary. A field that is no number stays bytes."""
    layout = BOX["records"][name]
    if len(raw) < layout["size"]:
        raise Trouble(f"the black box is cut off in a {name}")
    found = {}
    for field in layout["fields"]:
        part = raw[field["offset"]:field["offset"] + field["size"]]
        letter = _FORMAT.get(field["size"])
        # A text of eight bytes is none of the numbers.
        if letter is None or field["name"] == "crumb":
            found[field["name"]] = bytes(part)
        else:
            found[field["name"]] = struct.unpack("<" + letter, part)[0]
    return found


def checksum(raw):
    """FNV-1a over words of 64 bits, as guest-abi has it."""
    total = 0xCBF29CE484222325
    for (word,) in struct.iter_unpack("<Q", raw[:len(raw) // 8 * 8]):
        total = ((total ^ word) * 0x100000001B3) & MASK
    return total


def text(raw):
    """Text that fills a field as far as it goes. What has died may have left anything there, and control characters would
    act on the terminal."""
    found = raw.split(b"\0")[0].decode("utf-8", "replace")
    return "".join("\ufffd" if unicodedata.category(letter) == "Cc" else letter for letter in found)


class BlackBox:
    """A box that is read through `read(address, length)`. What it says is checked before it is believed."""

    def __init__(self, address, read):
        self.read = read
        layout = BOX["records"]["Header"]
        raw = bytes(read(address, layout["size"]))
        self.header = record("Header", raw)
        if self.header["magic"] != BOX["magic"]:
            raise Trouble(f"there is no black box at {address:#x}: the magic is missing")
        if self.header["checksum"] != checksum(raw[:-8]):
            raise Trouble(f"the header of the black box at {address:#x} is damaged: its checksum is wrong")
        if self.header["version"] < 1:
            raise Trouble(f"the black box at {address:#x} has version {self.header['version']}")
        self._check(address)
        self.address = address
        self.live = record("Live", bytes(read(address + BOX["live"], BOX["records"]["Live"]["size"])))

    def _check(self, address):
        header = self.header
        start, end = header["start"], header["start"] + header["size"]
        cpus, records = header["cpus"], header["trace_records"]

        def inside(place, length):
            return start <= place and place + length <= end

        fits = (
            header["address"] == address and header["size"] <= RESERVATION and inside(address, BOX["size"])
            and header["cpu_size"] >= BOX["records"]["CpuBlock"]["size"]
            and header["trace_size"] >= BOX["records"]["TraceRecord"]["size"]
            and records & (records - 1) == 0
            and inside(header["cpu_blocks"], cpus * header["cpu_size"])
            and inside(header["traces"], cpus * header["trace_size"] * records)
        )
        if not fits:
            raise Trouble(f"the header of the black box at {address:#x} contradicts itself")

    def cpu(self, number):
        """A CPU's block."""
        place = self.header["cpu_blocks"] + number * self.header["cpu_size"]
        return record("CpuBlock", bytes(self.read(place, BOX["records"]["CpuBlock"]["size"])))

    def traces(self, number, most):
        """A CPU's last trace records, at most so many, the oldest first, and how many there are no longer."""
        count, ring = self.cpu(number)["traced"], self.header["trace_records"]
        kept = min(count, ring)
        found = []
        for index in range(count - min(kept, most), count):
            place = self.header["traces"] + (number * ring + index % max(ring, 1)) * self.header["trace_size"]
            entry = record("TraceRecord", bytes(self.read(place, BOX["records"]["TraceRecord"]["size"])))
            if entry["sequence"] == (index + 1) & 0xFFFFFFFF:
                found.append(entry)
        return found, count - kept

    def events(self):
        """The events of its life that are kept, the oldest first."""
        ring = BOX["events"]
        found = []
        for index in range(max(0, self.live["events"] - ring), self.live["events"]):
            length = BOX["records"]["Event"]["size"]
            entry = record("Event", bytes(self.read(self.address + BOX["history"] + index % ring * length, length)))
            if entry["sequence"] == (index + 1) & 0xFFFFFFFF:
                found.append(entry)
        return found

    def death(self):
        """Why Exeunt has died, or None."""
        death = record("Death", bytes(self.read(self.address + BOX["death"], BOX["records"]["Death"]["size"])))
        return death if death["cause"] else None

    def milliseconds(self, ticks):
        """Ticks since Exeunt's start as milliseconds."""
        return (ticks - self.header["started"]) * 1000 / max(self.header["frequency"], 1)


def find_box(base, read):
    """The black box in the 2 MiB at `base`: at its last multiples of 64 KiB, the highest first. None if there is
    none."""
    magic = struct.pack("<Q", BOX["magic"])
    for place in range(base + RESERVATION - BOX["size"], base, -BOX["size"]):
        if bytes(read(place, 8)) == magic:
            return BlackBox(place, read)
    return None


def named(table, number):
    """A word of one of the box's lists."""
    return BOX[table].get(str(number), f"{table} {number}")


def trace_line(box, entry):
    """A trace record in a line."""
    esr = entry["esr"]
    words = syndrome(esr)
    # The class of interrupts has no syndrome.
    names = BOX["exit_names"]
    name = names[entry["class"]] if entry["class"] < len(names) else f"class {entry['class']}"
    if name == "interrupt":
        what = "an interrupt"
    elif name in ("hvc", "smc"):
        known = call(entry["subject"], name == "hvc")
        what = f"{words[0]}: {known or 'x0'} ({entry['subject']:#x}) -> {entry['answer']:#x}"
    elif is_abort(esr):
        what = f"{words[0]}: {words[1]}, FAR {entry['subject']:#x}, IPA {entry['answer']:#x}"
    elif bits(esr, 31, 26) == SYSTEM:
        value = entry["answer"] if esr & 1 else entry["subject"]
        what = f"{words[1]} = {value:#x}"
    else:
        what = ", ".join(words)
    flags = [name for name, bit in BOX["flags"].items() if entry["flags"] & bit]
    marks = f"  [{', '.join(flags)}]" if flags else ""
    ticks = entry["duration"] * 1000000 / max(box.header["frequency"], 1)
    return (f"{box.milliseconds(entry['time']):11.3f} ms  CPU {entry['cpu']}  {ticks:7.1f} us  at {entry['pc']:#x}  "
            f"{what}{marks}")


# --- an ELF's symbols ----------------------------------------------------------------------------------------------

def elf_symbols(path, wanted):
    """Addresses of some symbols of an ELF for AArch64, by name; without the debug information, which may have hundreds
    of megabytes."""
    try:
        return _elf_symbols(path, wanted)
    except OSError as error:
        raise Trouble(f"{path}: {error.strerror}") from None
    except (struct.error, IndexError, ValueError, OverflowError):
        raise Trouble(f"{path}: the ELF is damaged or cut off") from None


def _elf_symbols(path, wanted):
    import mmap

    names = {name.encode(): None for name in wanted}
    with open(path, "rb") as file:
        if file.read(5) != b"\x7fELF\x02":
            raise Trouble(f"{path}: this is no ELF of 64 bits")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as elf:
            sections, = struct.unpack_from("<Q", elf, 40)
            length, count = struct.unpack_from("<HH", elf, 58)
            headers = [struct.unpack_from("<IIQQQQIIQQ", elf, sections + number * length) for number in range(count)]
            for _, kind, _, _, offset, bytes_of, link, _, _, entry in headers:
                if kind != 2 or entry != 24:
                    continue
                strings, end = headers[link][4], headers[link][4] + headers[link][5]
                places = {}
                for name in names:
                    place = elf.find(b"\0" + name + b"\0", strings, end)
                    if place >= 0:
                        places[place + 1 - strings] = name
                for at, _, _, _, value, _ in struct.iter_unpack("<IBBHQQ", elf[offset:offset + bytes_of]):
                    if at in places:
                        names[places[at]] = value
    return {name.decode(): value for name, value in names.items() if value is not None}


# The vectors that a host's VBAR_EL1 may have (Linux, arch/arm64/kernel/entry.S), and where its image begins.
LINUX_VECTORS = ("vectors",)
LINUX_START = "_text"


def kaslr_offset(symbols, vbar):
    """How far from its link address a kernel runs whose VBAR_EL1 is this, or None. KASLR moves it by multiples of 64
    KiB at least."""
    for name in LINUX_VECTORS:
        if name in symbols:
            offset = (vbar - symbols[name]) & MASK
            if offset % 0x10000 == 0:
                return offset
    return None
