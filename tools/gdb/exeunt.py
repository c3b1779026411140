"""gdb commands for a machine on which Exeunt runs; `make gdb` loads them.

Owns everything that touches gdb: commands, breakpoints, and the ways to the machine's registers and memory. What a
value means is in words.py. QEMU's gdbstub is what it talks to: that has the registers of EL2 under their own names, and
physical memory on request.

It reads the machine and changes nothing of it.

    $exeunt_base     where Exeunt's image is, if there are no symbols that say it
    $exeunt_kernel   where the host's kernel was loaded, if somebody knows
    $exeunt_vmlinux  the file with the symbols of the host's kernel, if there is one
"""

import functools
import os
import re
import struct
import sys

import gdb

_HERE = os.path.dirname(os.path.abspath(os.path.expanduser(__file__)))
# Nothing is left among the sources.
sys.dont_write_bytecode = True
if _HERE not in sys.path:
    sys.path.insert(0, _HERE)

import words  # noqa: E402
from words import MASK, RESERVATION, Trouble, bits  # noqa: E402

PAGE = 4096
# QEMU calls some registers by the names that they have in AArch32.
OTHER_NAMES = {"SCTLR_EL1": "SCTLR", "VBAR_EL1": "VBAR", "CPACR_EL1": "CPACR"}


# --- the machine ---------------------------------------------------------------------------------------------------

def say(line=""):
    """Prints a line."""
    gdb.write(line + "\n")


def table(rows, indent="  "):
    """Prints rows with their columns below each other, the last as it is."""
    rows = [tuple(str(cell) for cell in row) for row in rows]
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths)] + [row[-1]]
        say((indent + "  ".join(cells)).rstrip())


def machine():
    """Raises a sentence unless there is a machine that is stopped."""
    thread = gdb.selected_thread()
    if thread is None:
        raise Trouble("there is no machine: `make gdb` starts one, or `target remote` connects to QEMU's gdbstub")
    if thread.is_running():
        raise Trouble("the machine runs: stop it with Ctrl-C first")
    return thread


def register(name):
    """A register of the CPU that is selected, or None where the stub does not have it."""
    frame = gdb.newest_frame()
    for known in (name, OTHER_NAMES.get(name)):
        if known is None:
            continue
        try:
            return int(frame.read_register(known)) & MASK
        except (ValueError, gdb.error):
            continue
    return None


def need(name):
    """A register without which there is no answer."""
    value = register(name)
    if value is None:
        raise Trouble(f"this gdbstub does not have {name}; QEMU 7.2 and later do, on a machine with EL2")
    return value


def level():
    """The Exception level at which the CPU is."""
    return bits(need("cpsr"), 3, 2)


def packet(text):
    """What the stub answers to a packet of its own."""
    answer = gdb.execute(f"maintenance packet {text}", to_string=True)
    return answer.rsplit("received: ", 1)[-1].strip().strip('"')


class Physical:
    """While it is entered, gdb reads physical memory; afterwards it reads as before, whatever has happened."""

    depth = 0

    @staticmethod
    def _switch(on):
        answer = packet(f"Qqemu.PhyMemMode:{int(on)}")
        # What gdb remembers of code and stacks was read the other way.
        gdb.execute("maintenance flush dcache", to_string=True)
        return answer

    def __enter__(self):
        if Physical.depth == 0:
            answer = self._switch(True)
            if answer != "OK":
                raise Trouble(f"this gdbstub cannot read physical memory (it says {answer!r}); QEMU's can")
        Physical.depth += 1

    def __exit__(self, *_):
        Physical.depth -= 1
        if Physical.depth == 0:
            self._switch(False)


def read(address, length):
    """So many bytes of physical memory."""
    with Physical():
        try:
            return bytes(gdb.selected_inferior().read_memory(address, length))
        except (gdb.MemoryError, OverflowError):
            raise Trouble(f"there is no memory at physical {address:#x}") from None


def read64(address):
    """Eight bytes of it, as a number."""
    return struct.unpack("<Q", read(address, 8))[0]


def read_table(address, entries):
    """A translation table."""
    return struct.unpack(f"<{entries}Q", read(address, 8 * entries))


def number(text, what="an address"):
    """What a person has typed, as a number."""
    try:
        # The languages that gdb knows do not all take a number of 64 bits.
        return int(text.replace("_", ""), 0) & MASK
    except ValueError:
        pass
    try:
        return int(gdb.parse_and_eval(text)) & MASK
    except (gdb.error, ValueError, TypeError) as error:
        raise Trouble(f"{text}: it is no {what.split(' ', 1)[-1]}: {error}") from None


def symbol(name):
    """The address of a symbol of Exeunt's, or None. In no language's syntax: gdb's changes with where the CPU is."""
    try:
        answer = gdb.execute(f"info address {name}", to_string=True)
    except gdb.error:
        return None
    found = re.search(r" at (?:address )?(0x[0-9a-f]+)", answer)
    return int(found.group(1), 16) if found else None


def convenience(name):
    """A variable of gdb's, or None."""
    value = gdb.convenience_variable(name)
    if value is None:
        return None
    is_text = value.type.strip_typedefs().code in (gdb.TYPE_CODE_ARRAY, gdb.TYPE_CODE_PTR)
    return value.string() if is_text else int(value)


def base_or_none():
    """Where Exeunt's 2 MiB are, as far as anybody has said."""
    found = symbol("__image_start")
    return found if found is not None else convenience("exeunt_base")


def base():
    """The same, and a sentence if nobody has."""
    found = base_or_none()
    if found is None:
        raise Trouble("nobody has said where Exeunt is: load its symbols (`add-symbol-file ELF -o ADDRESS`), or "
                      "`set $exeunt_base = ADDRESS`")
    return found


def is_exeunts(address):
    """Whether an address lies in Exeunt's 2 MiB."""
    start = base_or_none()
    return start is not None and start <= address < start + RESERVATION


def name_of(address):
    """` = symbol+offset`, or nothing."""
    answer = gdb.execute(f"info symbol {address:#x}", to_string=True)
    if " in section " not in answer:
        return ""
    # Rust's names end with a hash.
    return " = " + re.sub(r"::h[0-9a-f]{16}\b", "", answer.split(" in section ")[0].replace(" + ", "+"))


def tables_of_vectors():
    """The tables of vectors that are Exeunt's: address and words."""
    found = []
    for name, what in (("exeunt_vectors", "Exeunt's own vectors"),
                       ("exeunt_resident_stub", "the resident stub's: Exeunt has left this CPU")):
        address = symbol(name)
        if address is not None:
            found.append((address, what))
    return found


def whose_vectors(vbar):
    """Which table VBAR_EL2 is."""
    for address, what in tables_of_vectors():
        if address == vbar:
            return what
    if is_exeunts(vbar):
        return "in Exeunt's 2 MiB; its symbols would say which table"
    if vbar == 0:
        return "none yet"
    return f"the host's own, or the next payload's{name_of(vbar)}"


def command(function):
    """Turns whatever goes wrong into a sentence."""
    @functools.wraps(function)
    def run(self, argument, from_tty):
        try:
            machine()
            function(self, argument.strip())
        except Trouble as trouble:
            raise gdb.GdbError(f"{self.name}: {trouble}") from None
        except (gdb.error, gdb.MemoryError) as error:
            raise gdb.GdbError(f"{self.name}: gdb says: {error}") from None
        except (ValueError, KeyError, IndexError, OverflowError, struct.error, AttributeError) as error:
            raise gdb.GdbError(f"{self.name}: the machine has something here that this script does not understand "
                               f"({type(error).__name__}: {error})") from None
    return run


class Command(gdb.Command):
    """A command; its help is its class's text."""

    name = ""

    def __init__(self):
        super().__init__(self.name, gdb.COMMAND_DATA)


def no_arguments(argument):
    """For commands that take none."""
    if argument:
        raise Trouble(f"it takes no argument, and {argument!r} is one")


# --- el2 and trap --------------------------------------------------------------------------------------------------

def show_register(name, note=""):
    """A register and its fields."""
    value = register(name)
    if value is None:
        say(f"{name}: this gdbstub does not have it")
        return None
    say(f"{name} = {value:#x}{note}")
    table(words.register(name, value))
    return value


class El2(Command):
    """el2: EL2's registers on the CPU that is selected, in words.

HCR_EL2, what the host may do; VTCR_EL2 and VTTBR_EL2, its stage 2; VBAR_EL2, whose vectors answer it; SCTLR_EL2 and
the others of EL2's own translation; CPTR_EL2, MDCR_EL2 and CNTHCTL_EL2, further traps. Each field that says something
has a line, with its name in the Arm ARM.
`thread N` selects CPU N-1. `el2 REGISTER` shows that one alone."""

    name = "el2"
    registers = ("HCR_EL2", "VTCR_EL2", "VTTBR_EL2", "SCTLR_EL2", "CPTR_EL2", "MDCR_EL2", "CNTHCTL_EL2", "TTBR0_EL2",
                 "TCR_EL2", "MAIR_EL2")

    @command
    def invoke(self, argument):
        if argument:
            name = argument.upper()
            if name == "VBAR_EL2":
                return self.vectors()
            if name not in words.REGISTERS and name != "MAIR_EL2":
                known = ", ".join(self.registers[:3] + ("VBAR_EL2",) + self.registers[3:] + ("SPSR_EL2",))
                raise Trouble(f"{argument}: it knows {known}")
            show_register(name)
            return None
        say(f"CPU {cpu_number()}, now at EL{level()}")
        for name in self.registers[:3]:
            value = show_register(name)
            if name == "HCR_EL2" and value is not None and value >> 34 & 1:
                say("  note: E2H gives other registers another layout: of those below VTCR_EL2 and VTTBR_EL2 hold")
        self.vectors()
        for name in self.registers[3:]:
            show_register(name)
        return None

    @staticmethod
    def vectors():
        """VBAR_EL2."""
        vbar = register("VBAR_EL2")
        if vbar is None:
            say("VBAR_EL2: this gdbstub does not have it")
        else:
            say(f"VBAR_EL2 = {vbar:#x}: {whose_vectors(vbar)}")


def cpu_number():
    """The CPU's number as QEMU counts."""
    return machine().num - 1


def host_translation(address):
    """The physical address of a host's virtual one, on this CPU. Stage 2 is identity where it maps anything."""
    hcr, sctlr = need("HCR_EL2"), register("SCTLR_EL1")
    if bits(hcr, 27, 27) or sctlr is None or not sctlr & 1:
        # Virtual EL2 has no stage 1, and neither has a host whose MMU is off.
        return address
    upper = bool(address >> 55 & 1)
    ttbr = need("TTBR1_EL1" if upper else "TTBR0_EL1")
    shape = words.stage1_shape(need("TCR_EL1"), ttbr, upper)
    inside = address & ((1 << shape.inputs) - 1)
    if (address & ((1 << 56) - 1)) >> shape.inputs != (((1 << (56 - shape.inputs)) - 1) if upper else 0):
        raise Trouble(f"{address:#x} lies outside of both halves of the host's virtual addresses")
    _, end = words.walk(shape, inside, read64)
    if end.output is None:
        raise Trouble(f"the host's stage 1 does not map {address:#x}: {end.kind}")
    return end.output


def is_canonical(address):
    """Whether it can only be a virtual address of a kernel's."""
    return address >> 52 != 0


def instruction_at(address):
    """The host's instruction at a virtual address, disassembled; None if it cannot be had."""
    try:
        place = host_translation(address)
        with Physical():
            lines = gdb.selected_inferior().architecture().disassemble(place, place)
        return " ".join(lines[0]["asm"].split()).split(" //")[0].split(" <")[0]
    except (Trouble, gdb.error, gdb.MemoryError, IndexError):
        return None


class Trap(Command):
    """trap: the last exception to EL2 on the CPU that is selected, in words.

ESR_EL2, what it was; ELR_EL2, where the host was, with its instruction; SPSR_EL2, in which state; FAR_EL2 and
HPFAR_EL2, where these are part of it. In a handler also x0 to x3 of the host, and which call they make.
Without a handler (the CPU is at EL1 or EL0) it is the last exception that there was. `trapbreak CLASS` stops at one."""

    name = "trap"

    @command
    def invoke(self, argument):
        no_arguments(argument)
        esr, elr, spsr = need("ESR_EL2"), need("ELR_EL2"), need("SPSR_EL2")
        here = level()
        pc = need("pc")
        if here != 2:
            say(f"CPU {cpu_number()} runs the host, at EL{here}; this is its last exception to EL2")
        elif esr == 0 and elr == 0:
            say(f"CPU {cpu_number()}: there was no exception to EL2 yet")
            return
        else:
            where = self.vector_of(pc)
            place = f"at the vector: {where}" if where else f"in{name_of(pc)[2:] or f' {pc:#x}'}"
            say(f"CPU {cpu_number()}, at EL2, {place}")
        lines = words.syndrome(esr)
        say(f"ESR_EL2   = {esr:#x}: {lines[0]}")
        for line in lines[1:]:
            say(f"            {line}")
        source = words.mode(spsr & 0x1F)
        say(f"ELR_EL2   = {elr:#x}{name_of(elr)}")
        self.instruction(esr, elr, source)
        in_window = " (virtual EL2)" if source == "EL0" and bits(need("HCR_EL2"), 27, 27) else ""
        say(f"SPSR_EL2  = {spsr:#x}: from {source}{in_window}; {words.pstate(spsr)}")
        far, hpfar = register("FAR_EL2"), register("HPFAR_EL2")
        if far is not None:
            note = "" if words.has_far(esr) else ": not of this exception"
            say(f"FAR_EL2   = {far:#x}{note}{name_of(far) if words.has_far(esr) else ''}")
        if hpfar is not None and far is not None:
            ipa = words.fault_ipa(hpfar, far)
            note = ": not of this exception"
            if words.is_abort(esr) and not words.far_not_valid(esr):
                promised = "" if words.has_hpfar(esr) else "; for such a fault the architecture does not promise it"
                note = f": IPA {ipa:#x}{self.place(ipa)}{promised}"
            say(f"HPFAR_EL2 = {hpfar:#x}{note}")
        if here == 2 and not source.startswith("EL2"):
            self.host_registers(esr, pc)

    @staticmethod
    def place(ipa):
        """What is at an IPA, if Exeunt has it."""
        return ", in Exeunt's 2 MiB" if is_exeunts(ipa) else ""

    @staticmethod
    def vector_of(pc):
        """The vector at whose first instruction the CPU is."""
        for table_, _ in tables_of_vectors():
            if table_ <= pc < table_ + 0x800 and pc & 0x7F == 0:
                return words.vector(pc - table_)
        return None

    @staticmethod
    def instruction(esr, elr, source):
        """The line of the instruction that has come to EL2."""
        if not source.startswith("EL"):
            return
        kind = bits(esr, 31, 26)
        # HVC and SVC leave the address after them; all else its own.
        place = elr - 4 if kind in (words.HVC64, words.SVC64) else elr
        if source.startswith("EL2"):
            return
        found = instruction_at(place)
        if found:
            say(f"            {found}")

    @staticmethod
    def host_frame():
        """Where the host's registers are saved while a handler runs: the vectors' code has put them on top of its
        stack, and has called the handler. None in that code itself, before or after."""
        frame = gdb.newest_frame()
        for depth in range(64):
            if frame is None:
                return None
            if frame.name() == "exeunt_host_vector":
                return int(frame.read_register("sp")) & MASK if depth else None
            frame = frame.older()
        return None

    def host_registers(self, esr, pc):
        """x0 to x3 of the host: live at a vector, else in the frame on this CPU's stack."""
        if self.vector_of(pc):
            x, where = [need(f"x{index}") for index in range(4)], "as they are"
        else:
            place = self.host_frame()
            if place is None:
                say("x0 to x3 are not saved here: the vector's first instruction has them, and a handler in Rust")
                return
            try:
                x, where = struct.unpack("<4Q", gdb.selected_inferior().read_memory(place, 32)), "saved"
            except gdb.MemoryError:
                say(f"x0 to x3 cannot be read at {place:#x}")
                return
        say(f"x0 to x3, {where}: " + ", ".join(f"{value:#x}" for value in x))
        kind = bits(esr, 31, 26)
        if kind in (words.HVC64, words.SMC64):
            known = words.call(x[0], kind == words.HVC64)
            say(f"            the call: {known or 'none that this script knows'}")


# --- stage 2 -------------------------------------------------------------------------------------------------------

def stage2_shape():
    """The walk as this CPU does it."""
    hcr = need("HCR_EL2")
    vtcr, vttbr = need("VTCR_EL2"), need("VTTBR_EL2")
    if vttbr == 0 and vtcr == 0:
        raise Trouble("VTCR_EL2 and VTTBR_EL2 are 0: Exeunt has not set stage 2 up on this CPU, or has left it")
    shape = words.stage2_shape(vtcr, vttbr)
    notes = []
    if not hcr & 1:
        notes.append("HCR_EL2.VM is 0: stage 2 is off on this CPU at the moment; these are its tables all the same")
    if bits(hcr, 46, 46):
        notes.append("HCR_EL2.FWB is 1: MemAttr has another meaning than the one given here")
    return shape, notes


def shape_words(shape):
    """How it is walked."""
    return f"IPAs of {shape.inputs} bits, {1 << shape.granule >> 10} KiB granule, from level {shape.start} on"


def what_is(start, end, box):
    """Words on a range, as far as Exeunt's own memory is concerned."""
    ours = base_or_none()
    if ours is None or end <= ours or ours + RESERVATION <= start:
        return ""
    if box is not None and box.header["start"] <= start:
        return "Exeunt's black box"
    return "Exeunt's 2 MiB" if end == ours + RESERVATION else "Exeunt's 2 MiB, but for the black box"


class S2(Command):
    """s2 [ADDRESS]: the host's stage 2, read from the tables in memory.

`s2 ADDRESS` walks for that intermediate physical address, level by level: which table, which entry, the descriptor, and
at the end what the host may do there, or where and why the walk ends. `s2` alone prints the whole map as ranges.
An address of a kernel (0xffff...) goes through the host's stage 1 first. ADDRESS may be any expression of gdb's."""

    name = "s2"

    @command
    def invoke(self, argument):
        shape, notes = stage2_shape()
        for note in notes:
            say(note)
        if argument:
            self.walk(shape, argument)
        else:
            self.map(shape)

    @staticmethod
    def walk(shape, argument):
        """One address."""
        address = number(argument)
        if is_canonical(address):
            virtual, address = address, host_translation(address)
            say(f"virtual {virtual:#x} is IPA {address:#x} by the host's stage 1")
        tables_ = 1 << max(0, shape.inputs - words._entry_shift(shape, shape.start) - shape.stride)
        more = f", {tables_} tables in a row" if tables_ > 1 else ""
        say(f"IPA {address:#x}: {shape_words(shape)}{more}")
        with Physical():
            steps, end = words.walk(shape, address, read64)
        rows = []
        for step in steps:
            kind = words.kind_of(shape, step.level, step.descriptor)
            rows.append((f"level {step.level}", f"table {step.table:#x}", f"[{step.index}]",
                         f"{step.descriptor:#018x}", kind))
        table(rows)
        if end.output is None:
            ours = ": Exeunt's own 2 MiB, which the host does not have" if is_exeunts(address) else ""
            say(f"  ends here: {end.kind}{ours}")
            return
        say(f"  {end.kind} of {words.size(end.size)}: physical {end.output:#x}"
            + (", the same" if end.output == address else ", which is another one"))
        table(words.stage2_attributes(end.descriptor), "    ")

    @staticmethod
    def map(shape):
        """All of it."""
        with Physical():
            found = words.ranges(shape, read_table)
        say(f"stage 2: {shape_words(shape)}, tables from {shape.base:#x} on")
        try:
            box = black_box()
        except Trouble:
            box = None
        rows = []
        for part in found:
            if part.attributes is None:
                what, made = "not mapped", ""
            else:
                elsewhere = "" if part.offset == 0 else f" -> {part.start + part.offset:#x}"
                what = words.permissions(part.attributes) + elsewhere
                made = words.blocks(part.blocks)
            ours = what_is(part.start, part.end, box)
            rows.append((f"{part.start:#014x}", f"{part.end - 1:#014x}", words.size(part.end - part.start), what, made,
                         ours))
        table(rows)


# --- the host's memory ---------------------------------------------------------------------------------------------

class HostMem(Command):
    """hostmem ADDRESS [COUNT]: the host's memory, past EL2's own translation: COUNT bytes (64) from ADDRESS on.

ADDRESS is physical; one of a kernel (0xffff...) goes through the host's stage 1 on the CPU that is selected.
`hostmem /i ADDRESS [COUNT]` shows instructions, `hostmem /g` words of 64 bits, `hostmem /s` text.
Where a machine has nothing, QEMU reads zeros. At EL2 gdb's own `x` reads what EL2's MMU maps, and that is Exeunt's 2
MiB and little more."""

    name = "hostmem"
    most = 1 << 20

    @command
    def invoke(self, argument):
        parts = argument.split()
        form = parts.pop(0)[1:] if parts and parts[0].startswith("/") else "x"
        if form not in ("x", "i", "g", "s"):
            raise Trouble(f"/{form}: it knows /i, /g and /s")
        if not parts:
            raise Trouble("which address? `help hostmem`")
        # An expression may have spaces: the last word is a count if what is before it stands for itself.
        count = None
        if len(parts) > 1:
            count = number(parts.pop(), "a count")
        address = number(" ".join(parts))
        usual = {"x": 64, "i": 8, "g": 8, "s": 256}[form]
        count = usual if count is None else count
        bytes_of = {"x": 1, "i": 4, "g": 8, "s": 1}[form]
        if not 0 < count * bytes_of <= self.most:
            raise Trouble(f"{count} is no sensible count: up to {self.most // bytes_of}")
        if form == "s":
            say(repr(words.text(self.read(address, count)))[1:-1])
        elif form == "i":
            self.instructions(address, count)
        else:
            self.numbers(address, count, bytes_of)

    @staticmethod
    def read(address, length):
        """Bytes from an address that may be virtual: page by page, since only there neighbours are neighbours."""
        if not is_canonical(address):
            return read(address, length)
        found = b""
        while len(found) < length:
            place = address + len(found)
            part = min(length - len(found), PAGE - place % PAGE)
            found += read(host_translation(place), part)
        return found

    def numbers(self, address, count, bytes_of):
        """As gdb's `x` prints them."""
        raw = self.read(address, count * bytes_of)
        for start in range(0, len(raw), 16):
            line = raw[start:start + 16]
            if bytes_of == 8:
                shown = "  ".join(f"{value:#018x}" for (value,) in struct.iter_unpack("<Q", line))
            else:
                letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line)
                shown = f"{line.hex(' '):<47}  {letters}"
            say(f"{address + start:#x}{name_of(address + start) if start == 0 else ''}:  {shown}")

    @staticmethod
    def instructions(address, count):
        """Disassembled where they are."""
        place = host_translation(address) if is_canonical(address) else address
        if place % 4:
            raise Trouble(f"{address:#x} is no multiple of 4, as instructions are")
        read(place, 4)
        with Physical():
            lines = gdb.selected_inferior().architecture().disassemble(place, count=count)
        for line in lines:
            here = line["addr"] - place + address
            say(f"{here:#x}{name_of(here)}:  {line['asm']}")


# --- Exeunt's own structures ---------------------------------------------------------------------------------------

STATES = ("outside: EL2 is not set up", "live: Exeunt's vectors, stage 2 and traps are in force",
          "leaving: the host is held", "stub: Exeunt has left; the resident stub answers",
          "gone: Exeunt has left; the vectors are somebody else's")


def exeunts_type(name):
    """A type of Exeunt's, by its debug information. gdb looks it up by the rules of the language that is set."""
    before = gdb.parameter("language")
    try:
        gdb.execute("set language rust", to_string=True)
        return gdb.lookup_type(name)
    except gdb.error:
        raise Trouble("Exeunt's debug information is not loaded: it says where its structures are") from None
    finally:
        gdb.execute(f"set language {before}", to_string=True)


def percpu_type():
    """The type of what Exeunt keeps for a CPU."""
    return exeunts_type("exeunt::cpu::PerCpu")


def percpu():
    """The CPU that is selected: what TPIDR_EL2 points to."""
    address = need("TPIDR_EL2")
    if not is_exeunts(address):
        raise Trouble(f"TPIDR_EL2 {address:#x} is no structure of Exeunt's")
    return address


def find(type_, name, depth=4):
    """The offset and type of a field somewhere in a type, or None."""
    type_ = type_.strip_typedefs()
    if type_.code != gdb.TYPE_CODE_STRUCT or depth == 0:
        return None
    for field in type_.fields():
        if field.name == name:
            return field.bitpos // 8, field.type
    for field in type_.fields():
        # Not into what is large and of others: names there may be the same.
        inner = find(field.type, name, depth - 1) if field.name in ("boot", "value", "__0") else None
        if inner:
            return field.bitpos // 8 + inner[0], inner[1]
    return None


def percpu_field(address, name):
    """A number in a CPU's structure. Physical and virtual addresses are the same there."""
    found = find(percpu_type(), name)
    if found is None:
        raise Trouble(f"this Exeunt's structure of a CPU has no field {name}")
    offset, type_ = found
    return int.from_bytes(read(address + offset, min(type_.sizeof, 8)), "little")


def cpus():
    """The addresses of the CPUs' structures that Exeunt knows, by number."""
    once = gdb.lookup_static_symbol("exeunt::machine::MACHINE")
    if once is None:
        raise Trouble("Exeunt's debug information is not loaded: it says where its structures are")
    start = int(once.value().address) & MASK
    type_ = exeunts_type("exeunt::machine::Machine")
    data = next((field for field in once.type.strip_typedefs().fields() if field.name == "data"), None)
    place = next((field for field in type_.strip_typedefs().fields() if field.name == "cpus"), None)
    if data is None or place is None:
        raise Trouble("this Exeunt keeps its CPUs elsewhere")
    raw = read(start + data.bitpos // 8 + place.bitpos // 8, place.type.sizeof)
    return [(index, address) for index, (address,) in enumerate(struct.iter_unpack("<Q", raw)) if address]


def black_box():
    """The black box, or None."""
    start = base_or_none()
    return None if start is None else words.find_box(start, read)


class Life(Command):
    """life: what EL2 is on each CPU, and how Exeunt has fared.

For each CPU its state in Exeunt's own structures (live, stub, gone ...), at which level its host was entered, how often
Exeunt left it and came back, and where the CPU is now. Out of the black box: how often each CPU came to EL2 and why,
the last thing that Exeunt did on it, the events of Exeunt's life, and why it has died if it has."""

    name = "life"

    @command
    def invoke(self, argument):
        no_arguments(argument)
        try:
            self.structures()
        except Trouble as trouble:
            say(f"by Exeunt's structures: {trouble}")
        try:
            found = black_box()
        except Trouble as trouble:
            say(f"by the black box: {trouble}")
            return
        if found is None:
            say("by the black box: there is none in these 2 MiB")
        else:
            self.box(found)

    @staticmethod
    def where():
        """Where each CPU is at the moment, by its structure."""
        selected, places = gdb.selected_thread(), {}
        try:
            for thread in gdb.selected_inferior().threads():
                thread.switch()
                address = register("TPIDR_EL2")
                places[address] = f"CPU {thread.num - 1} of QEMU, at EL{level()}, pc {need('pc'):#x}"
        finally:
            selected.switch()
        return places

    def structures(self):
        """By debug information."""
        known, places = cpus(), self.where()
        if not known:
            say("by Exeunt's structures: it does not know its CPUs yet")
            return
        for index, address in known:
            life = percpu_field(address, "life")
            state = STATES[life & 0xFF] if life & 0xFF < len(STATES) else f"state {life & 0xff}"
            say(f"CPU {index}: {state}")
            if life >> 8:
                say(f"  held for LEAVE number {(life >> 8) - 1}")
            entered = percpu_field(address, "entered")
            how = ("not yet", "at EL1", "at virtual EL2")[entered] if entered < 3 else str(entered)
            window = ", and is there" if percpu_field(address, "in_window") else ""
            lent = "; EL2 was lent to its KVM" if percpu_field(address, "lent") else ""
            say(f"  its host was entered {how}{window}{lent}")
            say(f"  Exeunt left it {percpu_field(address, 'departures')} times, and came back "
                f"{percpu_field(address, 'returns')} times")
            vectors = percpu_field(address, "host_vectors")
            if vectors:
                say(f"  its host has set vectors at EL2: {vectors:#x}")
            say(f"  {places.get(address, 'no CPU of QEMU points to this structure now')}; structure at {address:#x}")

    @staticmethod
    def box(found):
        """By the black box."""
        header = found.header
        say(f"black box at {found.address:#x}: version {header['version']}, {header['cpus']} CPUs, start number "
            f"{header['starts']} in this memory; options: {words.text(header['options']) or 'none'}")
        for index in range(header["cpus"]):
            block = found.cpu(index)
            counts = struct.unpack(f"<{len(block['exits']) // 8}Q", block["exits"])
            names = words.BOX["exit_names"]
            shown = [f"{count} {name}" for name, count in zip(names, counts) if count]
            parts = ["exits: " + (", ".join(shown) or "none")]
            crumb = words.text(block["crumb"])
            if crumb:
                parts.append(f"last did {crumb} at {found.milliseconds(block['crumb_time']):.3f} ms")
            if block["stop"]:
                parts.append(words.named("stops", block["stop"]))
            say(f"  CPU {index}: " + "; ".join(parts))
        for event in found.events():
            name = words.named("kinds", event["kind"])
            numbers = "" if "[" not in name else f" = {event['first']:#x}, {event['second']:#x}"
            say(f"  {found.milliseconds(event['time']):11.3f} ms  CPU {event['cpu']}  {name}{numbers}")
        death = found.death()
        if death:
            say(f"  Exeunt has died on CPU {death['cpu']}: {words.named('causes', death['cause'])}: "
                f"{words.text(death['reason'])}")
            syndrome = "; ".join(words.syndrome(death["esr"]))
            say(f"    at {death['elr']:#x} of the image, ESR_EL2 {death['esr']:#x}: {syndrome}")


class Trace(Command):
    """trace [N]: the last N exits to EL2 (20), of all CPUs, out of the black box.

Each line: when, on which CPU, how long the answer took, where the host was, what it was and what it was answered.
Exits are recorded while tracing is on: Exeunt's option `trace`, or `exeunt trace start` in the guest."""

    name = "trace"

    @command
    def invoke(self, argument):
        most = number(argument, "a number of exits") if argument else 20
        if not 0 < most <= 1000000:
            raise Trouble(f"{argument} is no sensible number of exits")
        base()
        found = black_box()
        if found is None:
            raise Trouble("there is no black box in Exeunt's 2 MiB: this Exeunt has none, or has not made it yet")
        entries, lost = [], 0
        for index in range(found.header["cpus"]):
            mine, gone = found.traces(index, most)
            entries.extend(mine)
            lost += gone
        entries.sort(key=lambda entry: entry["time"])
        for entry in entries[-most:]:
            say(words.trace_line(found, entry))
        state = "on" if found.live["tracing"] else "off (EXEUNT=trace, or `exeunt trace start` in the guest)"
        say(f"{len(entries[-most:])} exits shown; {lost} older ones are written over; tracing is {state}")


# --- breakpoints ---------------------------------------------------------------------------------------------------

# Offsets in a table of vectors: from the host in AArch64, and its EL0 in AArch32.
SYNCHRONOUS = (0x400, 0x600)
OTHERS = {"irq": (0x480, 0x680), "fiq": (0x500, 0x700), "serror": (0x580, 0x780)}
# EL2's own exceptions: Exeunt's mistakes, or its guarded accesses.
FROM_EL2 = tuple(range(0x000, 0x400, 0x80))


class TrapBreakpoint(gdb.Breakpoint):
    """Stops at a vector, if the exception is of a class that is wanted."""

    def __init__(self, address, what, classes):
        super().__init__(f"*{address:#x}", type=gdb.BP_BREAKPOINT, internal=False)
        self.silent = True
        self.what, self.classes = what, classes

    def stop(self):
        """Whether to stop. gdb asks at each exception."""
        cpsr = register("cpsr")
        # A host may have something of its own at this address.
        if cpsr is None or bits(cpsr, 3, 2) != 2:
            return False
        esr = register("ESR_EL2")
        if self.classes is not None and (esr is None or bits(esr, 31, 26) not in self.classes):
            return False
        said = f"trapbreak {self.what}: CPU {gdb.selected_thread().num - 1}"
        if self.classes is not None:
            said += f", {': '.join(words.syndrome(esr)[:2])}"
        say(f"{said}, from {register('ELR_EL2') or 0:#x}. `trap` has all of it")
        return True


class TrapBreak(Command):
    """trapbreak CLASS: stops at the vector, before Exeunt has done anything, if the exception is of that class.

CLASS is hvc, smc, sysreg, data-abort, instruction-abort, undefined, wfx, simd, ... (`trapbreak` alone lists them), a
number of ESR_EL2.EC, irq, fiq or serror, `all` for every exception from the host, or `el2` for those of EL2's own.
The resident stub's vectors count too, for when Exeunt has left. `delete` removes it, as any breakpoint.
At the vector all registers are still the host's: `trap` reads them, `stepi` goes through the vector step by step."""

    name = "trapbreak"

    @command
    def invoke(self, argument):
        if not argument:
            self.list()
            return
        places = tables_of_vectors()
        if not places:
            raise Trouble("without Exeunt's symbols nobody knows where its vectors are")
        word = argument.lower()
        if word in OTHERS:
            offsets, classes = OTHERS[word], None
        elif word == "el2":
            offsets, classes = FROM_EL2, None
        elif word == "all":
            offsets = SYNCHRONOUS + sum(OTHERS.values(), ())
            classes = None
        else:
            offsets, classes = SYNCHRONOUS, words.classes_named(argument)
        numbers = []
        for address, _ in places:
            for offset in offsets:
                numbers.append(self.make(address + offset, word, classes))
        named = "" if classes is None else ": " + " or ".join(words.class_name(number_) for number_ in classes)
        say(f"stops at {word}{named} (breakpoints {', '.join(str(number_) for number_ in numbers)})")

    @staticmethod
    def make(address, word, classes):
        """One breakpoint. gdb says a line for each, which is kept from the person by having a command make it."""
        TrapBreak.wanted = (address, word, classes)
        gdb.execute("python TrapBreak.made = TrapBreakpoint(*TrapBreak.wanted)", to_string=True)
        return TrapBreak.made.number

    @staticmethod
    def list():
        """What there is to stop at, and what is stopped at."""
        say("trapbreak CLASS stops at exceptions to EL2 of a class:")
        rows = [(name, " or ".join(words.class_name(number_) for number_ in numbers))
                for name, numbers in words.CLASS_WORDS.items()]
        rows += [("irq, fiq, serror", "interrupts and SErrors that are taken to EL2"),
                 ("all", "every exception from the host"),
                 ("el2", "exceptions from EL2 itself: Exeunt's mistakes, and its guarded accesses"),
                 ("a number", "of ESR_EL2.EC")]
        table(rows)
        mine = [point for point in gdb.breakpoints() if isinstance(point, TrapBreakpoint)]
        for word in sorted({point.what for point in mine}):
            numbers = ", ".join(str(point.number) for point in mine if point.what == word)
            say(f"set: {word} (breakpoints {numbers})")
        if not mine:
            say("set: none")


# --- the host's symbols --------------------------------------------------------------------------------------------

class Linux(Command):
    """linux [VMLINUX]: loads the symbols of the host's kernel where it runs.

VMLINUX is the ELF of that very kernel; `make gdb SYMBOLS=1` names it already. Where KASLR has moved the kernel is read
from its vectors (VBAR_EL1), so that Linux has to have set these: on the CPU that is selected, and past its start.
Before that the symbols are loaded for the kernel's physical address, at which its first instructions run. Type it again
later."""

    name = "linux"
    loaded = None

    @command
    def invoke(self, argument):
        path = os.path.expanduser(argument or convenience("exeunt_vmlinux") or "")
        if not path:
            raise Trouble("which file? `linux VMLINUX`, or start with `make gdb SYMBOLS=1` (it fetches 320 MB)")
        if not os.path.isfile(path):
            raise Trouble(f"{path}: there is no such file")
        say(f"reading the symbols of {path}")
        symbols = words.elf_symbols(path, words.LINUX_VECTORS + (words.LINUX_START,))
        if words.LINUX_START not in symbols:
            raise Trouble(f"{path}: this is no kernel of Linux: it has no symbol _text")
        offset, how = self.offset(symbols)
        if Linux.loaded == (path, offset):
            say(f"they are loaded already, {how}")
            return
        if Linux.loaded:
            gdb.execute(f"remove-symbol-file {self.quoted(Linux.loaded[0])}", to_string=True)
            Linux.loaded = None
        gdb.execute(f"add-symbol-file {self.quoted(path)} -o {offset:#x}", to_string=True)
        Linux.loaded = (path, offset)
        say(f"loaded, {how}")

    @staticmethod
    def quoted(path):
        """For gdb's own commands."""
        return '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'

    @staticmethod
    def offset(symbols):
        """How far the kernel is from where it was linked, and how that is known."""
        vbar = register("VBAR_EL1")
        if vbar is not None and is_canonical(vbar):
            found = words.kaslr_offset(symbols, vbar)
            if found is not None:
                return found, f"{found:#x} from where it was linked, by VBAR_EL1 {vbar:#x}"
            raise Trouble(f"VBAR_EL1 {vbar:#x} is not the vectors of this file: it is another kernel's, or a program "
                          "runs, with the vectors that it sees; stop in the kernel and try again")
        start = convenience("exeunt_kernel")
        if start is None:
            raise Trouble("the host has not set its vectors yet (VBAR_EL1), and nobody has said where it was loaded "
                          "(`set $exeunt_kernel = ADDRESS`); try again when Linux runs")
        found = (start - symbols[words.LINUX_START]) & MASK
        return found, f"at its physical address {start:#x}: its MMU is off. Type `linux` again when it runs"


# --- help ----------------------------------------------------------------------------------------------------------

COMMANDS = (El2, Trap, TrapBreak, S2, HostMem, Life, Trace, Linux)

FIRST = (
    ("trapbreak undefined", "stops at the host's first traps: virtual EL2's instructions. `trapbreak` lists more"),
    ("continue", "runs the machine up to there"),
    ("trap", "what the exception is: ESR_EL2, ELR_EL2, SPSR_EL2 and the instruction, in words"),
    ("el2", "what EL2 is set to: HCR_EL2, stage 2, vectors, field by field"),
    ("s2 0x40000000", "walks stage 2 for an address, level by level; `s2` alone is the whole map"),
)


class Exeunt(gdb.Command):
    """exeunt: what to type first, and all commands for Exeunt."""

    def __init__(self):
        super().__init__("exeunt", gdb.COMMAND_SUPPORT)

    def invoke(self, argument, from_tty):
        """Says it."""
        del argument, from_tty
        say("The first five things to type:")
        table(FIRST)
        others = ", ".join(known.name for known in COMMANDS if known.name not in ("trap", "el2", "s2", "trapbreak"))
        say(f"Also: {others}. `help COMMAND` explains each, `exeunt` says this again, docs/gdb.md shows a session.")


for _known in COMMANDS:
    _known()
Exeunt()
