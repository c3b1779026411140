//! QEMU's gdbstub, as far as a program needs it that only looks: registers by name, and physical memory.
//!
//! Owns the frames of the protocol (gdb's manual, "Remote Protocol"). Whoever connects stops the machine.

use std::io::{self, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// What QEMU gets to answer a packet, on a busy workstation.
const PATIENCE: Duration = Duration::from_mins(1);
/// Bytes of memory in one packet. QEMU's have 4096 characters, two to a byte.
const CHUNK: usize = 1024;
/// The most of a description of registers that is read: QEMU's have some ten thousand characters.
const LONGEST: usize = 1 << 20;

/// A machine that is stopped.
#[derive(Debug)]
pub struct Stub<S> {
    to: S,
    from: BufReader<S>,
    /// The descriptions of the registers, XML.
    descriptions: Vec<String>,
}

impl Stub<UnixStream> {
    /// Stops the machine whose gdbstub listens at `socket`.
    ///
    /// # Errors
    /// In words.
    pub fn connect(socket: &Path) -> Result<Self, String> {
        let connect = || {
            let to = UnixStream::connect(socket)?;
            to.set_read_timeout(Some(PATIENCE))?;
            to.set_write_timeout(Some(PATIENCE))?;
            Ok::<_, io::Error>((to.try_clone()?, to))
        };
        let (from, to) = connect().map_err(|error| format!("QEMU's gdbstub cannot be reached: {error}"))?;
        Self::new(to, from)
    }
}

impl<S: Read + Write> Stub<S> {
    /// The one at the other end of `to` and `from`.
    ///
    /// # Errors
    /// In words.
    pub fn new(to: S, from: S) -> Result<Self, String> {
        let mut stub = Self { to, from: BufReader::new(from), descriptions: Vec::new() };
        stub.ask("qSupported:xmlRegisters=aarch64")?;
        let first = stub.description("target.xml")?;
        for file in first.split("<xi:include href=\"").skip(1).filter_map(|rest| rest.split('"').next()) {
            let description = stub.description(file)?;
            stub.descriptions.push(description);
        }
        stub.descriptions.push(first);
        Ok(stub)
    }

    fn ask(&mut self, packet: &str) -> Result<String, String> {
        self.exchange(packet).map_err(|error| format!("QEMU's gdbstub does not answer {packet:?}: {error}"))
    }

    fn exchange(&mut self, packet: &str) -> io::Result<String> {
        let sum = packet.bytes().fold(0_u8, u8::wrapping_add);
        self.to.write_all(format!("${packet}#{sum:02x}").as_bytes())?;
        self.to.flush()?;
        loop {
            // Acknowledgements, and what the stub has to say of the machine's stop, come before it.
            match self.byte()? {
                b'$' => {}
                b'-' => return Err(io::Error::other("it has not understood")),
                _ => continue,
            }
            let (mut answer, mut sum) = (Vec::new(), 0_u8);
            loop {
                match self.byte()? {
                    b'#' => break,
                    byte => {
                        sum = sum.wrapping_add(byte);
                        answer.push(byte);
                    }
                }
                if answer.len() > LONGEST {
                    return Err(io::Error::other("the answer does not end"));
                }
            }
            let told = [self.byte()?, self.byte()?];
            if std::str::from_utf8(&told).ok().and_then(|told| u8::from_str_radix(told, 16).ok()) != Some(sum) {
                return Err(io::Error::other("the answer's sum is wrong"));
            }
            self.to.write_all(b"+")?;
            let answer = unescaped(&answer);
            // A stop that is told on its own account answers nothing.
            if !(answer.starts_with('T') && packet != "?") {
                return Ok(answer);
            }
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.from.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    fn description(&mut self, file: &str) -> Result<String, String> {
        let mut text = String::new();
        loop {
            let part = self.ask(&format!("qXfer:features:read:{file}:{:x},{CHUNK:x}", text.len()))?;
            let Some(rest) = part.get(1..) else { return Err(format!("QEMU does not describe {file}")) };
            text.push_str(rest);
            match part.as_bytes()[0] {
                b'l' => return Ok(text),
                b'm' if text.len() < LONGEST => {}
                _ => return Err(format!("QEMU does not describe {file}: {part:?}")),
            }
        }
    }

    /// The CPUs, as the stub names them.
    ///
    /// # Errors
    /// In words.
    pub fn cpus(&mut self) -> Result<Vec<String>, String> {
        let mut cpus = Vec::new();
        let mut answer = self.ask("qfThreadInfo")?;
        while let Some(names) = answer.strip_prefix('m') {
            cpus.extend(names.split(',').map(str::to_owned));
            answer = self.ask("qsThreadInfo")?;
        }
        Ok(cpus)
    }

    /// Of which CPU the registers are from now on.
    ///
    /// # Errors
    /// In words.
    pub fn select(&mut self, cpu: &str) -> Result<(), String> {
        match self.ask(&format!("Hg{cpu}"))?.as_str() {
            "OK" => Ok(()),
            other => Err(format!("QEMU's gdbstub has no CPU {cpu}: {other:?}")),
        }
    }

    /// A register of 64 bits.
    ///
    /// # Errors
    /// The stub does not have it.
    pub fn register(&mut self, name: &str) -> Result<u64, String> {
        let number = self.descriptions.iter().find_map(|description| register_number(description, name));
        let number = number.ok_or_else(|| format!("this QEMU's gdbstub does not have {name}; 7.2 and later do"))?;
        let answer = self.ask(&format!("p{number:x}"))?;
        let bytes = from_hex(&answer).filter(|bytes| bytes.len() == 8);
        let bytes = bytes.ok_or_else(|| format!("QEMU's gdbstub says {answer:?} of {name}"))?;
        Ok(number_of(&bytes))
    }

    /// Reads physical memory from now on.
    ///
    /// # Errors
    /// It cannot.
    pub fn read_physical(&mut self) -> Result<(), String> {
        match self.ask("Qqemu.PhyMemMode:1")?.as_str() {
            "OK" => Ok(()),
            other => Err(format!("this QEMU's gdbstub does not read physical memory: {other:?}")),
        }
    }

    /// Memory.
    ///
    /// # Errors
    /// There is none.
    pub fn memory(&mut self, address: u64, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            let place = address + bytes.len() as u64;
            let answer = self.ask(&format!("m{place:x},{:x}", CHUNK.min(length - bytes.len())))?;
            let part = from_hex(&answer).filter(|part| !part.is_empty());
            bytes.extend(part.ok_or_else(|| format!("memory at {place:#x} cannot be read: {answer:?}"))?);
        }
        Ok(bytes)
    }
}

/// `}` and the byte after it stand for one that means something to the protocol.
fn unescaped(answer: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(answer.len());
    let mut rest = answer.iter();
    while let Some(&byte) = rest.next() {
        match (byte, rest.as_slice().first()) {
            (b'}', Some(&next)) => {
                bytes.push(next ^ 0x20);
                rest.next();
            }
            _ => bytes.push(byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The number of a register by the description of all.
fn register_number(description: &str, name: &str) -> Option<u32> {
    let named = format!("name=\"{name}\"");
    let register = description.split("<reg ").skip(1).map(|rest| rest.split('>').next().unwrap_or_default());
    let register = register.into_iter().find(|register| register.split_whitespace().any(|word| word == named))?;
    let number = register.split_whitespace().find_map(|word| word.strip_prefix("regnum=\""))?;
    number.split('"').next()?.parse().ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    (digits.len().is_multiple_of(2)).then(|| digits.chunks(2).map(byte).collect())?
}

/// Eight bytes as the machine has them.
#[must_use]
pub fn number_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A stub that answers with `answers`, by packet, and anything else with nothing.
    fn serve(mut socket: UnixStream, answers: &[(&str, &str)]) {
        let mut from = BufReader::new(socket.try_clone().unwrap());
        let mut byte = [0];
        let mut packet = String::new();
        while from.read_exact(&mut byte).is_ok() {
            match byte[0] {
                b'$' => packet.clear(),
                b'#' => {
                    from.read_exact(&mut [0; 2]).unwrap();
                    let answer = answers.iter().find(|(asked, _)| *asked == packet).map_or("", |(_, answer)| answer);
                    let sum = answer.bytes().fold(0_u8, u8::wrapping_add);
                    // A stop is told once more in between.
                    let stop = if packet == "Hg01" { "$T05thread:01;#07" } else { "" };
                    write!(socket, "+{stop}${answer}#{sum:02x}").unwrap();
                }
                other => packet.push(char::from(other)),
            }
        }
    }

    fn stub(answers: &'static [(&str, &str)]) -> Result<Stub<UnixStream>, String> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || serve(theirs, answers));
        Stub::new(ours.try_clone().unwrap(), ours)
    }

    const USUAL: &[(&str, &str)] = &[
        ("qXfer:features:read:target.xml:0,400", "l<target><xi:include href=\"system.xml\"/></target>"),
        ("qXfer:features:read:system.xml:0,400", "m<reg name=\"VTCR_EL2\" bitsize=\"64\" regnum=\"222\"/>"),
        ("qXfer:features:read:system.xml:30,400", "l<reg name=\"VTTBR_EL2\" bitsize=\"64\" regnum=\"221\"/>"),
        ("qfThreadInfo", "m01,02"),
        ("qsThreadInfo", "l"),
        ("Hg01", "OK"),
        ("pdd", "00e0264000000100"),
        ("Qqemu.PhyMemMode:1", "OK"),
        ("m40000000,4", "0102fe}\u{3}"),
        ("m50000000,4", "0102feff"),
    ];

    #[test]
    fn registers_and_memory_are_read() {
        let mut stub = stub(USUAL).unwrap();
        assert_eq!(stub.cpus().unwrap(), ["01", "02"]);
        stub.select("01").unwrap();
        assert_eq!(stub.register("VTTBR_EL2"), Ok(0x0001_0000_4026_e000));
        stub.read_physical().unwrap();
        assert_eq!(stub.memory(0x5000_0000, 4).unwrap(), [1, 2, 0xfe, 0xff]);
    }

    #[test]
    fn what_is_missing_is_said() {
        let mut stub = stub(USUAL).unwrap();
        assert!(stub.register("HCR_EL2").unwrap_err().contains("does not have HCR_EL2"));
        assert!(stub.select("7").unwrap_err().contains("no CPU 7"));
        assert!(stub.memory(0x6000_0000, 4).unwrap_err().contains("cannot be read"));
        assert!(stub.memory(0x4000_0000, 4).unwrap_err().contains("cannot be read"));
    }

    #[test]
    fn a_stub_that_says_nothing_is_none() {
        assert!(stub(&[]).unwrap_err().contains("does not describe target.xml"));
    }

    #[test]
    fn bytes_and_numbers() {
        assert_eq!(from_hex("00ff10"), Some(vec![0, 255, 16]));
        assert_eq!((from_hex("0"), from_hex("0g")), (None, None));
        assert_eq!(number_of(&[0x34, 0x12, 0, 0, 0, 0, 0, 0x80]), 0x8000_0000_0000_1234);
        assert_eq!(unescaped(b"a}\x03b"), "a#b");
    }
}
