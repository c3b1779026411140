//! Which UARTs are known, where their registers are, and where none can be.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const BASE: u64 = 0xff00_0000;

const fn spacing(shift: u8, width: u8, offset: u32) -> Spacing {
    Spacing { shift, width, offset }
}

/// Offsets of status and data, the number of status's bit, whether it is set when there is room, and the width.
fn described(name: &str, spacing: Spacing) -> (u64, u64, u32, bool, u64) {
    let port = Uart::new(Kind::of(name.as_bytes()).unwrap(), BASE, spacing).unwrap().port();
    let set = port.room != 0;
    for others in [0, !port.bit] {
        assert_eq!((port.has_room(port.bit | others), port.has_room(others)), (set, !set));
    }
    (port.status - BASE, port.data - BASE, port.bit.trailing_zeros(), set, port.width.bytes())
}

#[test]
fn every_kind_has_the_registers_of_its_manual() {
    let none = Spacing::DEFAULT;
    for name in ["arm,pl011", "arm,sbsa-uart"] {
        assert_eq!(described(name, none), (0x18, 0, 5, false, 4));
    }
    for name in ["cdns,uart-r1p8", "cdns,uart-r1p12", "xlnx,zynqmp-uart"] {
        assert_eq!(described(name, none), (0x2c, 0x30, 4, false, 4));
    }
    for name in ["fsl,imx21-uart", "fsl,imx6q-uart", "fsl,imx8mp-uart"] {
        assert_eq!(described(name, none), (0xb4, 0x40, 4, false, 4));
    }
    for name in ["fsl,imx7ulp-lpuart", "fsl,imx8ulp-lpuart", "fsl,imx8qxp-lpuart"] {
        assert_eq!(described(name, none), (0x14, 0x1c, 23, true, 4));
    }
    for name in ["amlogic,meson-ao-uart", "amlogic,meson-gx-uart"] {
        assert_eq!(described(name, none), (0x0c, 0, 21, false, 4));
    }
    assert_eq!(described("marvell,armada-3700-uart", none), (0x0c, 0x04, 11, false, 4));
    for name in ["brcm,bcm2835-aux-uart", "mediatek,mt6577-uart", "ti,am654-uart", "ti,omap3-uart", "ti,omap4-uart"] {
        assert_eq!(described(name, none), (0x14, 0, 5, true, 4));
        // These are not described by the tree, whatever it has.
        assert_eq!(described(name, spacing(0, 1, 64)), (0x14, 0, 5, true, 4));
    }
    for name in ["ns16550", "ns16550a", "snps,dw-apb-uart", "nvidia,tegra20-uart"] {
        assert_eq!(described(name, none), (5, 0, 5, true, 1));
        assert_eq!(described(name, spacing(2, 4, 0)), (0x14, 0, 5, true, 4));
        assert_eq!(described(name, spacing(2, 1, 0x100)), (0x114, 0x100, 5, true, 1));
    }
}

#[test]
fn names_are_known_as_wholes_and_once() {
    let texts =
        NAMES.map(|(name, kind)| (String::from_utf8(name.into()).unwrap().trim_end_matches('\0').to_owned(), kind));
    assert_eq!(texts.iter().map(|(text, _)| text).collect::<BTreeSet<_>>().len(), NAMES.len());
    for (text, kind) in &texts {
        assert_eq!(Kind::of(text.as_bytes()), Some(*kind), "the quick look passes over {text}");
        assert_eq!(Kind::of(&text.as_bytes()[..text.len() - 1]).is_some(), text == "ns16550a", "{text}");
        for more in ["x", "-uart"] {
            assert_eq!(Kind::of(format!("{text}{more}").as_bytes()), None, "{text}");
        }
    }
    for name in ["", "ns", "virtio,mmio", "arm,", "arm,gic-v3", "arm,primecell", "fsl,", "qcom,geni-debug-uart", "uart"]
    {
        assert_eq!(Kind::of(name.as_bytes()), None, "{name}");
    }
}

#[test]
fn what_cannot_be_laid_out_is_no_uart() {
    let uart = |base, spacing| Uart::new(Kind::Uart8250, base, spacing);
    for width in [0, 2, 3, 5, 8, 255] {
        assert_eq!(uart(BASE, spacing(2, width, 0)), None, "{width}");
    }
    for shift in [5, 31, 64, 255] {
        assert_eq!(uart(BASE, spacing(shift, 4, 0)), None, "{shift}");
    }
    // Registers in each byte, and accesses of more.
    for (shift, width) in [(0, 4), (1, 4)] {
        assert_eq!(uart(BASE, spacing(shift, width, 0)), None, "{shift} {width}");
    }
    assert_eq!(uart(u64::MAX, spacing(2, 4, 1)), None);
    assert_eq!(uart(u64::MAX - 8, spacing(2, 4, 0)), None);
    let pl011 = |base| Uart::new(Kind::Pl011, base, Spacing::DEFAULT);
    assert_eq!(pl011(u64::MAX), None);
    assert_eq!(pl011(!0xff), None);
    assert_eq!(pl011(!0x103).map(|uart| uart.registers().end), Some(!0xe7));
}

#[test]
fn both_registers_are_in_what_is_to_be_mapped() {
    let registers = |name: &str, spacing| {
        let uart = Uart::new(Kind::of(name.as_bytes()).unwrap(), BASE, spacing).unwrap();
        let registers = uart.registers();
        (registers.start - BASE, registers.end - BASE)
    };
    assert_eq!(registers("arm,pl011", Spacing::DEFAULT), (0, 0x1c));
    assert_eq!(registers("cdns,uart-r1p12", Spacing::DEFAULT), (0, 0x34));
    assert_eq!(registers("fsl,imx6q-uart", Spacing::DEFAULT), (0x40, 0xb8));
    assert_eq!(registers("ns16550a", Spacing::DEFAULT), (0, 6));
    assert_eq!(registers("ns16550a", spacing(4, 1, 0xff0)), (0xff0, 0x1041));
}

#[test]
fn a_uart_that_was_left_off_is_turned_on_and_no_other_is_changed() {
    let switch = |name: &str| Uart::new(Kind::of(name.as_bytes()).unwrap(), BASE, Spacing::DEFAULT).unwrap().switch();
    let cadence = switch("cdns,uart-r1p12").unwrap();
    assert_eq!(cadence.register, BASE);
    // The value after a reset: TXDIS, RXDIS and STPBRK; and that of a UART in use, with TXEN and RXEN.
    assert_eq!(cadence.turn_on(0x128), Some(0x118));
    assert_eq!(cadence.turn_on(0x114), None);
    assert_eq!(cadence.turn_on(0), Some(0x10));
    assert_eq!(cadence.turn_on(0x30), Some(0x10));
    for name in ["arm,pl011", "fsl,imx6q-uart", "ns16550a", "brcm,bcm2835-aux-uart"] {
        assert_eq!(switch(name), None, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 2000 }, failure_persistence: None, ..ProptestConfig::default()
    })]

    /// Whatever a tree says, there is no panic, and registers that begin aligned are aligned both.
    #[test]
    fn registers_are_aligned_if_the_first_one_is(
        base in prop_oneof![any::<u64>(), u64::MAX - 0x200..=u64::MAX],
        kind in 0..NAMES.len(),
        shift: u8,
        width in 0u8..9,
        offset: u32,
    ) {
        let spacing = spacing(shift, width, offset);
        let Some(uart) = Uart::new(NAMES[kind].1, base, spacing) else { return Ok(()) };
        let (width, registers, port) = (uart.alignment(), uart.registers(), uart.port());
        prop_assert!(registers.end - registers.start <= 0xb8 && width == port.width.bytes());
        for register in [port.status, port.data].into_iter().chain(uart.switch().map(|switch| switch.register)) {
            prop_assert!(registers.start <= register && register + width <= registers.end);
            prop_assert!(!registers.start.is_multiple_of(width) || register.is_multiple_of(width));
        }
    }
}
