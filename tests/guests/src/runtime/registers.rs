//! Reading and writing system registers by name.

/// Reads a system register.
#[macro_export]
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reading a system register has no effect on memory; one that the CPU does not have is reported by the
        // vectors.
        unsafe {
            core::arch::asm!(
                concat!("mrs {}, ", $name),
                out(reg) value,
                options(nostack, preserves_flags)
            );
        }
        value
    }};
}

/// Writes a system register and synchronises the context.
#[macro_export]
macro_rules! write_register {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: the guest owns its EL1 registers; each use keeps what the running code needs (stack, vectors,
        // identity map).
        unsafe {
            core::arch::asm!(
                concat!("msr ", $name, ", {}"),
                "isb",
                in(reg) value,
                options(nostack, preserves_flags)
            );
        }
    }};
}

/// The field of `width` bits at `shift`, as the ID registers have them four bits wide.
#[must_use]
pub const fn field(value: u64, shift: u32, width: u32) -> u64 {
    (value >> shift) & ((1 << width) - 1)
}

/// CurrentEL as a number, 0 to 3 (CurrentEL.EL, bits 3:2).
#[must_use]
pub fn current_el() -> u64 {
    field(read_register!("CurrentEL"), 2, 2)
}
