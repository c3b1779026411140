//! The UARTs that Exeunt's log can go to.
//!
//! Owns the table of their kinds: what a device tree calls them, where the two registers are that a byte takes, and
//! which bit says that there is room for it. Whether one can be where a tree puts it, `placement` says; the accesses
//! are the image's.
//!
//! As in Linux's earlycon, a UART is used as firmware left it. Nothing here knows of its speed, and only kinds that are
//! ready for a byte by one bit of one register are in the table.

use core::ops::Range;

/// How wide the accesses to a UART's registers are. (Linux knows 16 bits too, and no tree of its boards has them.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `ldrb` and `strb`.
    Byte,
    /// `ldr` and `str` of 32 bits.
    Word,
}

impl Width {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Byte => 1,
            Self::Word => 4,
        }
    }
}

/// A kind of UART.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Arm's PL011, and the subset of it that SBSA wants (PL011 TRM, DDI 0183, 3.3.1 and 3.3.3).
    Pl011,
    /// Cadence's, in Xilinx's Zynq (UG1085; Linux `drivers/tty/serial/xilinx_uartps.c`).
    Cadence,
    /// That of i.MX up to i.MX 8M (i.MX 8M Plus RM, 17.2; Linux `drivers/tty/serial/imx_earlycon.c`).
    Imx,
    /// That of later i.MX, with four registers before those of the LPUART (Linux `drivers/tty/serial/fsl_lpuart.c`).
    Lpuart,
    /// Amlogic's (Linux `drivers/tty/serial/meson_uart.c`).
    Meson,
    /// Marvell's of the Armada 3700 (Linux `drivers/tty/serial/mvebu-uart.c`).
    Armada3700,
    /// An 8250 or 16550, laid out as the tree's `reg-shift`, `reg-io-width` and `reg-offset` say (Linux's binding
    /// `8250.yaml`).
    Uart8250,
    /// The same with a register in each word, of which the tree says nothing.
    Uart8250Words,
}

/// A name in its place in [`NAMES`], filled up with zeros: the table needs no relocation.
type Name = [u8; 24];

/// UARTs by what `compatible` says: the names by which Linux's earlycon knows them.
const NAMES: [(Name, Kind); 23] = [
    (padded(b"arm,pl011"), Kind::Pl011),
    (padded(b"arm,sbsa-uart"), Kind::Pl011),
    (padded(b"cdns,uart-r1p8"), Kind::Cadence),
    (padded(b"cdns,uart-r1p12"), Kind::Cadence),
    (padded(b"xlnx,zynqmp-uart"), Kind::Cadence),
    (padded(b"fsl,imx21-uart"), Kind::Imx),
    (padded(b"fsl,imx6q-uart"), Kind::Imx),
    (padded(b"fsl,imx8mp-uart"), Kind::Imx),
    (padded(b"fsl,imx7ulp-lpuart"), Kind::Lpuart),
    (padded(b"fsl,imx8ulp-lpuart"), Kind::Lpuart),
    (padded(b"fsl,imx8qxp-lpuart"), Kind::Lpuart),
    (padded(b"amlogic,meson-ao-uart"), Kind::Meson),
    (padded(b"amlogic,meson-gx-uart"), Kind::Meson),
    (padded(b"marvell,armada-3700-uart"), Kind::Armada3700),
    (padded(b"ns16550"), Kind::Uart8250),
    (padded(b"ns16550a"), Kind::Uart8250),
    (padded(b"snps,dw-apb-uart"), Kind::Uart8250),
    (padded(b"nvidia,tegra20-uart"), Kind::Uart8250),
    (padded(b"brcm,bcm2835-aux-uart"), Kind::Uart8250Words),
    (padded(b"mediatek,mt6577-uart"), Kind::Uart8250Words),
    (padded(b"ti,am654-uart"), Kind::Uart8250Words),
    (padded(b"ti,omap3-uart"), Kind::Uart8250Words),
    (padded(b"ti,omap4-uart"), Kind::Uart8250Words),
];

const fn padded(text: &[u8]) -> Name {
    let mut name = [0; _];
    name.split_at_mut(text.len()).0.copy_from_slice(text);
    name
}

impl Kind {
    /// The kind that has `name` in its `compatible`.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Option<Self> {
        // Every node of a tree is asked for its kind, and this decides most.
        match (name.first_chunk()?, name.last_chunk()?) {
            (_, b"uart" | b"l011") | (b"cdns" | b"ns16", _) => {}
            _ => return None,
        }
        let is = |known: &Name| known.strip_prefix(name).is_some_and(|rest| rest.first().is_none_or(|&byte| byte == 0));
        NAMES.iter().find(|(known, _)| is(known)).map(|&(_, kind)| kind)
    }

    /// Offsets of the status and of the data register, the bit of status, and whether it is set when there is room for
    /// a byte.
    const fn registers(self) -> (u64, u64, u32, bool) {
        match self {
            // UARTFR.TXFF, UARTDR
            Self::Pl011 => (0x18, 0x00, 1 << 5, false),
            // Channel_sts_reg0.TFUL, TX_RX_FIFO0
            Self::Cadence => (0x2c, 0x30, 1 << 4, false),
            // UTS.TXFULL, UTXD
            Self::Imx => (0xb4, 0x40, 1 << 4, false),
            // STAT.TDRE, DATA
            Self::Lpuart => (0x14, 0x1c, 1 << 23, true),
            // AML_UART_STATUS.TX_FULL, AML_UART_WFIFO
            Self::Meson => (0x0c, 0x00, 1 << 21, false),
            // UART_STAT.TX_FIFO_FUL, UART_TSH
            Self::Armada3700 => (0x0c, 0x04, 1 << 11, false),
            // LSR.THRE, THR: numbers of registers
            Self::Uart8250 | Self::Uart8250Words => (5, 0, 1 << 5, true),
        }
    }
}

/// What a tree says about how an 8250 is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spacing {
    /// `reg-shift`: log2 of the distance of two registers in bytes.
    pub shift: u8,
    /// `reg-io-width`: the width of an access in bytes.
    pub width: u8,
    /// `reg-offset`: where the first register is, from the node's address on.
    pub offset: u32,
}

impl Spacing {
    /// That of a tree which says nothing.
    pub const DEFAULT: Self = Self { shift: 0, width: 1, offset: 0 };

    /// Registers in words.
    const WORDS: Self = Self { shift: 2, width: 4, offset: 0 };
}

/// A UART, and where its registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// Physical address of its first register.
    base: u64,
    kind: Kind,
    /// log2 of how much further its registers are apart than [`Kind::registers`] says.
    shift: u8,
    width: Width,
}

/// What sending a byte takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Physical address of the register that says whether there is room.
    pub status: u64,
    /// Physical address of the register that takes a byte.
    pub data: u64,
    /// The bit of status that says it.
    pub bit: u32,
    /// What it is when there is room: `bit` or 0.
    pub room: u32,
    /// How wide accesses are.
    pub width: Width,
    /// A PL011: [`Self::has_byte`] and [`Self::is_break`] are true of it.
    pub tells_breaks: bool,
}

impl Port {
    /// Whether a byte was received, or a break, when the status register of a PL011 reads as `status` (UARTFR.RXFE).
    #[must_use]
    pub const fn has_byte(status: u32) -> bool {
        status & 1 << 4 == 0
    }

    /// Whether what was received is a break, by the data register of a PL011 (UARTDR.BE).
    #[must_use]
    pub const fn is_break(data: u32) -> bool {
        data & 1 << 10 != 0
    }

    /// Whether there is room for a byte when the status register reads as `status`.
    #[must_use]
    #[inline]
    pub const fn has_room(&self, status: u32) -> bool {
        status & self.bit == self.room
    }
}

/// The control register of a UART that firmware may have left off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Physical address.
    pub register: u64,
    /// The bits that let it send.
    on: u32,
    /// The bits that keep it from sending.
    off: u32,
}

impl Switch {
    /// What to write when the register reads as `control`; nothing if the UART is on.
    #[must_use]
    pub const fn turn_on(&self, control: u32) -> Option<u32> {
        let wanted = (control | self.on) & !self.off;
        if wanted == control { None } else { Some(wanted) }
    }
}

impl Uart {
    /// The most that registers may be apart, as log2: the trees of Linux's boards have 2.
    const MAX_SHIFT: u8 = 4;

    /// See [`Platform::UNREAD`](crate::devicetree::Platform::UNREAD).
    pub(crate) const UNREAD: Self = Self { base: 0, kind: Kind::Pl011, shift: 0, width: Width::Byte };

    /// The UART of this kind at `base`; nothing if its registers cannot be laid out as the tree says.
    #[must_use]
    pub fn new(kind: Kind, base: u64, spacing: Spacing) -> Option<Self> {
        let Spacing { shift, width, offset } = match kind {
            Kind::Uart8250 => spacing,
            Kind::Uart8250Words => Spacing::WORDS,
            _ => Spacing { shift: 0, ..Spacing::WORDS },
        };
        let width = match width {
            1 => Width::Byte,
            4 => Width::Word,
            _ => return None,
        };
        // Registers that are closer than an access is wide would not be aligned.
        if shift > Self::MAX_SHIFT || kind == Kind::Uart8250 && 1 << shift < width.bytes() {
            return None;
        }
        let base = base.checked_add(offset.into())?;
        // So that no sum below overflows.
        base.checked_add(Self::EXTENT)?;
        Some(Self { base, kind, shift, width })
    }

    /// More than the registers of any kind take.
    const EXTENT: u64 = 0x100;

    /// A PL011 at `base`, which is far from the end of the address space.
    #[must_use]
    pub const fn pl011(base: u64) -> Self {
        Self { base, kind: Kind::Pl011, shift: 0, width: Width::Word }
    }

    /// What sending a byte takes.
    #[must_use]
    pub const fn port(&self) -> Port {
        let (status, data, bit, set) = self.kind.registers();
        Port {
            status: self.base + (status << self.shift),
            data: self.base + (data << self.shift),
            bit,
            room: if set { bit } else { 0 },
            width: self.width,
            tells_breaks: matches!(self.kind, Kind::Pl011),
        }
    }

    /// What may have to be turned on first. Firmware that has not used the UART may have left it off, and as little as
    /// Linux's earlycon does suffices.
    #[must_use]
    pub const fn switch(&self) -> Option<Switch> {
        match self.kind {
            // Control_reg0.TXEN, TXDIS
            Kind::Cadence => Some(Switch { register: self.base, on: 1 << 4, off: 1 << 5 }),
            _ => None,
        }
    }

    /// Where its registers are, as far as they are used. If that begins at a multiple of the width, all are aligned.
    #[must_use]
    pub fn registers(&self) -> Range<u64> {
        let port = self.port();
        let first = self.switch().map_or(u64::MAX, |switch| switch.register);
        first.min(port.status).min(port.data)..port.status.max(port.data) + self.width.bytes()
    }

    /// A multiple of how many bytes the first of [`Self::registers`] has to be at.
    #[must_use]
    pub const fn alignment(&self) -> u64 {
        self.width.bytes()
    }
}

#[cfg(test)]
mod tests;
