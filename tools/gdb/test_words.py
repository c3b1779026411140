"""Tests of words.py: `python3 -m unittest` in this directory, or the test `gdb` of the package exeunt-tools.

The expectations are written from the Arm ARM and from what machines have shown, not from words.py.
"""

import os
import struct
import tempfile
import unittest
from unittest import mock

import words
from words import Trouble

VTCR_40 = 0x80023558
VTCR_44 = 0x80043594
BASE = 0x4025C000
LEVEL_2 = 0x4025B000


def fields(name, value):
    """What is said of a register, by field."""
    return {field: text for field, _, text in words.register(name, value)}


def memory(entries):
    """Physical memory with these 8-byte words, and zeros."""
    return lambda address: entries.get(address, 0)


def table_of(entries):
    """The same for whole tables."""
    return lambda address, count: [entries.get(address + 8 * index, 0) for index in range(count)]


class Registers(unittest.TestCase):
    def test_hcr_of_a_host_at_el1(self):
        # TSC, RW, VM: what Exeunt sets on a cortex-a57.
        self.assertEqual(list(fields("HCR_EL2", 0x80080001)), ["VM", "TSC", "RW"])
        self.assertIn("SMC traps", fields("HCR_EL2", 1 << 19)["TSC"])

    def test_hcr_of_a_host_in_virtual_el2(self):
        self.assertIn("virtual EL2", fields("HCR_EL2", 0x88080001)["TGE"])

    def test_every_bit_of_hcr_has_a_name(self):
        for bit in range(64):
            self.assertNotIn("?", fields("HCR_EL2", 1 << bit) if bit not in (11, 60, 61, 62, 63) else {})

    def test_vtcr(self):
        found = fields("VTCR_EL2", VTCR_40)
        self.assertEqual(found["T0SZ"], "intermediate physical addresses (IPA) of 40 bits")
        self.assertEqual(found["PS"], "physical addresses of 40 bits")
        self.assertEqual(found["TG0"], "granule of 4 KiB")
        self.assertEqual(found["SH0"], "walks: Inner Shareable")
        self.assertNotIn("HA", found)

    def test_unknown_bits_are_said(self):
        self.assertIn("?", fields("VTCR_EL2", VTCR_40 | 1 << 63))

    def test_sctlr_with_and_without_the_mmu(self):
        self.assertIn("M", fields("SCTLR_EL2", 0x30C51835))
        self.assertNotIn("M", fields("SCTLR_EL2", 0x30C50830))

    def test_mair(self):
        found = fields("MAIR_EL2", 0x04FF)
        self.assertEqual(found, {"Attr0": "Normal, Write-Back", "Attr1": "Device-nGnRE"})

    def test_fields_do_not_overlap(self):
        for name, layout in words.REGISTERS.items():
            seen = 0
            for field in layout:
                mask = ((1 << (field.high - field.low + 1)) - 1) << field.low
                self.assertEqual(seen & mask, 0, f"{name}.{field.name}")
                seen |= mask

    def test_pstate(self):
        self.assertEqual(words.mode(0b0101), "EL1h")
        self.assertEqual(words.mode(0x10), "AArch32")
        self.assertEqual(words.pstate(0x600003C5), "masked: D, A, I, F; NZCV -ZC-")
        self.assertEqual(words.pstate(0x80400005), "nothing masked; NZCV N---; PAN")


class Syndromes(unittest.TestCase):
    def test_calls(self):
        self.assertEqual(words.syndrome(0x5A000000), ["HVC #0x0"])
        self.assertEqual(words.syndrome(0x5E000001)[0], "trapped SMC #0x1")
        self.assertEqual(words.call(1, True), "SOFT_RESTART")
        self.assertEqual(words.call(0x86004500, True), "VERSION")
        self.assertEqual(words.call(0xC4000003, False), "CPU_ON")
        self.assertEqual(words.call(0x84000008, True), "SYSTEM_OFF")
        self.assertIsNone(words.call(0x12345678, False))

    def test_system_registers(self):
        # mrs x5, MIDR_EL1, and msr SCTLR_EL1, x3.
        read = 0x18 << 26 | 1 << 25 | 3 << 20 | 0 << 17 | 0 << 14 | 0 << 10 | 5 << 5 | 0 << 1 | 1
        write = 0x18 << 26 | 1 << 25 | 3 << 20 | 1 << 10 | 3 << 5
        self.assertEqual(words.syndrome(read)[1], "a read: mrs x5, MIDR_EL1")
        self.assertEqual(words.syndrome(write)[1], "a write: msr SCTLR_EL1, x3")
        # One that nobody has named, into the zero register.
        odd = 0x18 << 26 | 3 << 20 | 7 << 17 | 7 << 14 | 15 << 10 | 31 << 5 | 15 << 1 | 1
        self.assertEqual(words.syndrome(odd)[1], "a read: mrs xzr, S3_7_C15_C15_7")
        # dc cisw, x1.
        self.assertEqual(words.syndrome(0x18 << 26 | 1 << 20 | 2 << 17 | 7 << 10 | 1 << 5 | 14 << 1)[1], "DC CISW, x1")

    def test_aborts(self):
        # A write of four bytes from w2, translation fault at level 2.
        esr = 0x24 << 26 | 1 << 25 | 1 << 24 | 2 << 22 | 2 << 16 | 1 << 6 | 0x06
        self.assertEqual(words.syndrome(esr), [
            "data abort from EL1 or EL0", "translation fault, level 2", "WnR: a write", "ISV: 4 bytes, w2"])
        self.assertTrue(words.has_far(esr) and words.has_hpfar(esr))
        permission = 0x20 << 26 | 1 << 25 | 0x0D
        self.assertEqual(words.syndrome(permission), ["instruction abort from EL1 or EL0", "permission fault, level 1"])
        self.assertFalse(words.has_hpfar(permission))
        self.assertTrue(words.has_hpfar(permission | 1 << 7), "on a walk of stage 1 it is there")
        self.assertFalse(words.has_far(0x24 << 26 | 1 << 10 | 0x10), "FnV")
        self.assertTrue(words.has_far(0x24 << 26 | 1 << 10 | 0x06), "FnV counts for external aborts only")
        self.assertEqual(words.fault_ipa(0x402000, 0xFFFF_0000_0000_0123), 0x4020_0123)

    def test_others(self):
        self.assertEqual(words.syndrome(0x02000000), ["unknown reason"])
        self.assertEqual(words.syndrome(0x01 << 26 | 1)[1], "WFE")
        self.assertIn("does not define", words.syndrome(0x3F << 26)[0])
        self.assertEqual(words.syndrome(0x96000010)[:2], ["data abort from EL2", "synchronous external abort"])

    def test_all_numbers_have_words(self):
        for number in range(64):
            for iss in (0, 0x1FFFFFF, 0x155):
                self.assertTrue(all(words.syndrome(number << 26 | iss)))

    def test_classes_by_word(self):
        self.assertEqual(words.classes_named("HVC"), (0x16, 0x12))
        self.assertEqual(words.classes_named("0x24"), (0x24,))
        with self.assertRaisesRegex(Trouble, "perhaps hvc"):
            words.classes_named("hv")
        with self.assertRaisesRegex(Trouble, "from 0 to 63"):
            words.classes_named("64")
        with self.assertRaisesRegex(Trouble, "no class"):
            words.classes_named("-")

    def test_vectors(self):
        self.assertEqual(words.vector(0x400), "synchronous, from the host, AArch64")
        self.assertEqual(words.vector(0x280), "IRQ, from EL2")
        self.assertEqual(words.vector(0x780), "SError, from the host, AArch32")


class Walks(unittest.TestCase):
    """The map that Exeunt makes of a machine with 1 GiB from 1 GiB on, with the descriptors that it has in memory."""

    ram = {BASE + 8: LEVEL_2 | 3, BASE: 0x004000000000_07FD}
    ram.update({LEVEL_2 + 8 * index: 0x4000_07FD + (index << 21) for index in range(512) if index != 1})
    ram.update({BASE + 8 * index: 0x0040_0000_0000_07FD | index << 30 for index in range(1024) if index > 1})
    ram[BASE] = 0x0040_0000_0000_07FD

    def shape(self):
        return words.stage2_shape(VTCR_40, BASE)

    def test_shape_has_concatenated_tables(self):
        shape = self.shape()
        self.assertEqual((shape.inputs, shape.start, shape.base), (40, 1, BASE))
        self.assertEqual(words.stage2_shape(VTCR_44, 0x1000).start, 0)

    def test_walk_to_ram_a_hole_and_beyond(self):
        steps, end = words.walk(self.shape(), 0x7FE0_1234, memory(self.ram))
        self.assertEqual([(step.level, step.index) for step in steps], [(1, 1), (2, 511)])
        self.assertEqual((end.kind, end.output, end.size), ("block", 0x7FE0_1234, 2 << 20))
        _, hole = words.walk(self.shape(), 0x4020_0000, memory(self.ram))
        self.assertEqual((hole.output, hole.kind), (None, "invalid descriptor: translation fault, level 2"))
        # The second of the tables in a row.
        steps, end = words.walk(self.shape(), 0x90_0000_0000, memory(self.ram))
        self.assertEqual((steps[0].address, end.output), (BASE + 8 * 0x240, 0x90_0000_0000))
        steps, beyond = words.walk(self.shape(), 1 << 40, memory(self.ram))
        self.assertEqual((steps, beyond.output), ([], None))

    def test_page(self):
        ram = {BASE + 8: LEVEL_2 | 3, LEVEL_2: 0x5000_0003, 0x5000_0008: 0x4000_173F}
        _, end = words.walk(self.shape(), 0x4000_1ABC, memory(ram))
        self.assertEqual((end.kind, end.output, end.size), ("page", 0x4000_1ABC, 4096))
        self.assertEqual(words.permissions(end.descriptor), "--x Normal, Write-Back")

    def test_reserved_descriptors_end_a_walk(self):
        ram = {BASE + 8: LEVEL_2 | 3, LEVEL_2: 0x5000_0003, 0x5000_0008: 0x4000_173D}
        _, end = words.walk(self.shape(), 0x4000_1ABC, memory(ram))
        self.assertIn("reserved", end.kind)
        _, end = words.walk(words.stage2_shape(VTCR_44, 0x1000), 0, lambda _: 0x7FD)
        self.assertIn("reserved", end.kind, "a block at level 0")

    def test_ranges(self):
        found = words.ranges(self.shape(), table_of(self.ram))
        shown = [(part.start, part.end, part.attributes is not None and words.permissions(part.attributes))
                 for part in found]
        self.assertEqual(shown, [
            (0, 0x4000_0000, "rw- Normal, Write-Back"),
            (0x4000_0000, 0x4020_0000, "rwx Normal, Write-Back"),
            (0x4020_0000, 0x4040_0000, False),
            (0x4040_0000, 0x8000_0000, "rwx Normal, Write-Back"),
            (0x8000_0000, 1 << 40, "rw- Normal, Write-Back"),
        ])
        self.assertEqual(words.blocks(found[3].blocks), "510 x 2 MiB")
        self.assertTrue(all(part.offset in (0, None) for part in found))

    def test_a_table_that_leads_to_itself_ends(self):
        # 24 bits from level 2 on.
        found = words.ranges(words.stage2_shape(0x80023528, 0x1000), lambda _, count: [0x1003] * count)
        self.assertEqual((found[0].start, found[-1].end), (0, 1 << 24))
        # 44 bits from level 0 on: 512 times 512 times 512 tables would be read.
        with mock.patch.object(words, "MOST_TABLES", 100), self.assertRaisesRegex(Trouble, "leads back to itself"):
            words.ranges(words.stage2_shape(VTCR_44, 0x1000), lambda _, count: [0x1003] * count)

    def test_registers_that_contradict_themselves(self):
        with self.assertRaisesRegex(Trouble, "cannot start at level"):
            words.stage2_shape(VTCR_40 & ~0xC0, BASE)
        with self.assertRaisesRegex(Trouble, "not at a multiple"):
            words.stage2_shape(VTCR_40, BASE + 0x1000)
        with self.assertRaisesRegex(Trouble, "LPA2"):
            words.stage2_shape(VTCR_40 | 1 << 32, BASE)

    def test_stage_1_of_a_host(self):
        # 48 bits, 4 KiB, both halves: Linux on a cortex-a57.
        tcr = 16 | 16 << 16 | 2 << 30
        shape = words.stage1_shape(tcr, 0x1234_0000_8000_0000, True)
        self.assertEqual((shape.start, shape.granule, shape.base), (0, 12, 0x8000_0000))
        # 64 KiB, 42 bits, lower half.
        shape = words.stage1_shape(22 | 1 << 14, 0x8000_0000, False)
        self.assertEqual((shape.start, shape.granule, shape.stride), (2, 16, 13))
        # LPA2: 52 bits start at level -1, and a descriptor has bits 51:50 of the address in 9:8.
        shape = words.stage1_shape(12 << 16 | 2 << 30 | 1 << 59, 0x8000_0000, True)
        self.assertEqual((shape.start, shape.lpa2), (-1, True))
        _, end = words.walk(shape, 0, lambda _: 0x1000_0303)
        self.assertEqual(end.output, 0xC_0000_1000_0000)
        with self.assertRaisesRegex(Trouble, "turned off"):
            words.stage1_shape(1 << 7, 0, False)
        for size in (0, 7, 52, 63):
            with self.assertRaisesRegex(Trouble, "which no walk translates"):
                words.stage1_shape(size << 16 | 2 << 30, 0x8000_0000, True)

    def test_attributes(self):
        found = {name: text for name, _, text in words.stage2_attributes(0x0040_0000_0000_0445)}
        self.assertEqual(found["MemAttr"], "Device-nGnRE")
        self.assertEqual((found["S2AP"], found["XN"]), ("read only", "execute-never"))
        self.assertEqual(words.memory_type(0xB), "Normal, outer Write-Through, inner Write-Back")
        self.assertEqual(words.memory_type(0x5), "Normal, Non-cacheable")

    def test_sizes(self):
        self.assertEqual([words.size(count) for count in (4096, 2 << 20, 1020 << 20, 1 << 40, 100)],
                         ["4 KiB", "2 MiB", "1020 MiB", "1 TiB", "100 bytes"])


def put(name, **values):
    """A record with these fields, by the layout that Rust has rendered."""
    layout = words.BOX["records"][name]
    raw = bytearray(layout["size"])
    for field in layout["fields"]:
        value = values.pop(field["name"], None)
        if value is not None:
            part = value if isinstance(value, bytes) else value.to_bytes(field["size"], "little")
            raw[field["offset"]:field["offset"] + len(part)] = part
    assert not values, values
    return bytes(raw)


def black_box(exeunt=0x4020_0000, cpus=2, ring=4, entries=()):
    """The 2 MiB with a box. `entries` are trace records of CPU 0."""
    box = exeunt + (2 << 20) - words.BOX["size"]
    blocks = box + 0x8000
    traces = blocks + cpus * 640
    header = put("Header", magic=words.BOX["magic"], version=1, cpus=cpus, core_size=0x4000, address=box, exeunt=exeunt,
                 start=box, size=words.BOX["size"], cpu_blocks=blocks, cpu_size=640, trace_size=48, traces=traces,
                 trace_records=ring, starts=1, frequency=62500000, started=1000, options=b"log=debug")
    header = header[:-8] + words.checksum(header[:-8]).to_bytes(8, "little")
    memory_ = bytearray(2 << 20)

    def at(address, raw):
        memory_[address - exeunt:address - exeunt + len(raw)] = raw

    at(box, header)
    at(box + words.BOX["live"], put("Live", events=1, tracing=1))
    at(box + words.BOX["history"], put("Event", time=63500, kind=1, cpu=0, sequence=1, first=1))
    at(blocks, put("CpuBlock", mpidr=0, state=2, entry_level=2, traced=len(entries), crumb=b"hvc"))
    for number, entry in enumerate(entries):
        at(traces + number % ring * 48, put("TraceRecord", sequence=number + 1, **entry))
    return memory_


def reader(memory_, exeunt=0x4020_0000):
    """The way to it."""
    def read(address, length):
        if not exeunt <= address <= address + length <= exeunt + len(memory_):
            raise Trouble("outside")
        return memory_[address - exeunt:address - exeunt + length]
    return read


HVC = dict(time=126000, pc=0xFFFF800080011D08, subject=3, answer=0xBADCA11, duration=125, esr=0x5A000000,
           **{"class": 1})
READ = dict(time=189000, pc=0x41CBA0D0, subject=0, answer=0x410FD070, duration=625, flags=1,
            esr=0x18 << 26 | 3 << 20 | 5 << 5 | 1, **{"class": 4})


class BlackBoxes(unittest.TestCase):
    def test_box_is_found_and_read(self):
        memory_ = black_box(entries=[HVC, READ])
        found = words.find_box(0x4020_0000, reader(memory_))
        self.assertEqual(found.address, 0x403F_0000)
        entries, lost = found.traces(0, 10)
        self.assertEqual((len(entries), lost), (2, 0))
        line = words.trace_line(found, entries[0])
        self.assertEqual(line.split(), "2.000 ms CPU 0 2.0 us at 0xffff800080011d08 HVC #0x0: FINALISE_EL2 (0x3) -> "
                         "0xbadca11".split())
        self.assertIn("mrs x5, MIDR_EL1 = 0x410fd070", words.trace_line(found, entries[1]))
        self.assertIn("in virtual EL2", words.trace_line(found, entries[1]))
        self.assertEqual([words.named("kinds", event["kind"]) for event in found.events()],
                         ["Exeunt starts [how often in this memory]"])
        self.assertIsNone(found.death())

    def test_ring_goes_round(self):
        memory_ = black_box(entries=[dict(HVC, subject=number) for number in range(6)])
        entries, lost = words.find_box(0x4020_0000, reader(memory_)).traces(0, 10)
        self.assertEqual(([entry["subject"] for entry in entries], lost), ([2, 3, 4, 5], 2))
        entries, _ = words.find_box(0x4020_0000, reader(memory_)).traces(0, 1)
        self.assertEqual([entry["subject"] for entry in entries], [5])

    def test_half_written_record_is_left_out(self):
        memory_ = black_box(entries=[HVC, READ])
        place = 0x4020_0000 + (2 << 20) - words.BOX["size"] + 0x8000 + 2 * 640 - 0x4020_0000
        sequence = next(field for field in words.BOX["records"]["TraceRecord"]["fields"] if field["name"] == "sequence")
        memory_[place + sequence["offset"]] = 77
        entries, _ = words.find_box(0x4020_0000, reader(memory_)).traces(0, 10)
        self.assertEqual([entry["class"] for entry in entries], [4])

    def test_no_box_and_a_damaged_one(self):
        self.assertIsNone(words.find_box(0x4020_0000, reader(bytearray(2 << 20))))
        memory_ = black_box()
        memory_[(2 << 20) - words.BOX["size"] + 20] ^= 1
        with self.assertRaisesRegex(Trouble, "checksum"):
            words.find_box(0x4020_0000, reader(memory_))

    def test_header_that_contradicts_itself(self):
        memory_ = black_box(cpus=200)
        with self.assertRaisesRegex(Trouble, "contradicts"):
            words.find_box(0x4020_0000, reader(memory_))


class Texts(unittest.TestCase):
    def test_nothing_in_a_box_acts_on_a_terminal(self):
        self.assertEqual(words.text(b"\x1b[2J\xff\x9bm\0more"), "\ufffd[2J\ufffd\ufffdm")
        self.assertEqual(words.text("a\u009bb\n\0".encode()), "a\ufffdb\ufffd")


class Symbols(unittest.TestCase):
    def elf(self, symbols):
        """An ELF with nothing but a table of symbols."""
        strings = b"\0" + b"".join(name.encode() + b"\0" for name in symbols)
        table = b"\0" * 24
        for name, value in symbols.items():
            table += struct.pack("<IBBHQQ", strings.index(b"\0" + name.encode() + b"\0") + 1, 0, 0, 1, value, 0)
        start = 64
        headers = b"\0" * 64
        headers += struct.pack("<IIQQQQIIQQ", 0, 2, 0, 0, start, len(table), 2, 1, 8, 24)
        headers += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, start + len(table), len(strings), 0, 0, 1, 0)
        head = b"\x7fELF\x02\x01\x01" + b"\0" * 9
        head += struct.pack("<HHIQQQIHHHHHH", 2, 183, 1, 0, 0, start + len(table) + len(strings), 0, 64, 0, 0, 64, 3, 0)
        return head + table + strings + headers

    def test_symbols_and_kaslr(self):
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(self.elf({"_text": 0xFFFF800080000000, "not_vectors": 1, "vectors": 0xFFFF800080011000}))
        try:
            found = words.elf_symbols(file.name, ("vectors", "_text", "nothing"))
        finally:
            os.unlink(file.name)
        self.assertEqual(found, {"_text": 0xFFFF800080000000, "vectors": 0xFFFF800080011000})
        self.assertEqual(words.kaslr_offset(found, 0xFFFFBC7C66C11000), 0x3C7BE6C00000)
        self.assertIsNone(words.kaslr_offset(found, 0xFFFFBC7C66C11800))

    def test_what_is_no_elf(self):
        with self.assertRaisesRegex(Trouble, "no ELF"):
            words.elf_symbols(__file__, ("_text",))
        with self.assertRaisesRegex(Trouble, "/nowhere: No such file"):
            words.elf_symbols("/nowhere", ("_text",))

    def test_a_damaged_elf_is_said(self):
        whole = self.elf({"_text": 1, "vectors": 2})
        state = 1
        damaged = 0
        for number in range(400):
            raw = bytearray(whole)
            for _ in range(number % 5):
                state = (state * 0x5851F42D4C957F2D + 1) & words.MASK
                raw[(state >> 33) % len(raw)] = state >> 56
            if number % 3 == 0:
                state = (state * 0x5851F42D4C957F2D + 1) & words.MASK
                del raw[(state >> 33) % len(raw):]
            with tempfile.NamedTemporaryFile() as file:
                file.write(raw)
                file.flush()
                try:
                    words.elf_symbols(file.name, ("vectors", "_text"))
                except Trouble:
                    damaged += 1
        self.assertGreater(damaged, 50)


if __name__ == "__main__":
    unittest.main()
