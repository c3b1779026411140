//! A guest of KVM, on each CPU in turn: thousands of MMIO exits whose data the guest computes with, and as many times
//! asleep in WFI until its timer's interrupt, which it acknowledges at its virtual GIC. Every value that it writes is
//! compared with what this program has computed itself.
//!
//! `kvm [CPU...]`: on these CPUs, or on all that are online. Prints a line for each. Needs a GICv3 in the machine, and
//! debugfs at its usual place for KVM's own count of WFI exits.

user::program!(aarch64::run);

#[cfg(target_arch = "aarch64")]
mod aarch64 {
    use std::arch::global_asm;
    use std::env;
    use std::fs;
    use std::os::fd::AsRawFd;

    use kvm_bindings::{
        KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_REG_ARM_CORE,
        KVM_REG_ARM64, KVM_REG_SIZE_U64, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device,
        kvm_device_attr, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, kvm_userspace_memory_region, kvm_vcpu_init,
    };
    use kvm_ioctls::{DeviceFd, Kvm, VcpuExit, VcpuFd, VmFd};
    use user::{fail, skip};

    /// Each round is four reads, two writes, and one WFI at least.
    const ROUNDS: u64 = 1000;

    /// The guest's memory, and what else is in its physical address space. Nothing backs [`MMIO`], so that accesses
    /// come here.
    const RAM: u64 = 0x4000_0000;
    const RAM_SIZE: usize = 0x1_0000;
    const MMIO: u64 = 0x1000_0000;
    const DISTRIBUTOR: u64 = 0x0800_0000;
    const REDISTRIBUTOR: u64 = 0x080a_0000;

    /// What the guest multiplies with; odd, so that nothing gets lost.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    /// The virtual timer's interrupt.
    const TIMER: u64 = 27;
    /// PSTATE: EL1h, everything masked. WFI ends at a pending interrupt all the same.
    const PSTATE: u64 = 0x3c5;
    /// Seconds after which a guest that is stuck ends this program.
    const PATIENCE: u32 = 60;

    // The guest. x0: MMIO, x1: rounds, x2: GICD, x3: GICR, x4: ticks to sleep, x6: what is computed, x7: the factor.
    global_asm!(
        ".pushsection .rodata.kvm_guest, \"a\"",
        ".balign 8",
        "kvm_guest_start:",
        // GICD_CTLR: ARE, EnableGrp1. GICR_WAKER 0. PPI 27 in group 1, enabled.
        "mov w9, #0x12",
        "str w9, [x2]",
        "str wzr, [x3, #0x14]",
        "add x5, x3, #0x10, lsl #12",
        "mov w9, #-1",
        "str w9, [x5, #0x80]",
        "mov w9, #(1 << 27)",
        "str w9, [x5, #0x100]",
        // ICC_SRE_EL1, ICC_PMR_EL1, ICC_IGRPEN1_EL1.
        "mov x9, #7",
        "msr S3_0_C12_C12_5, x9",
        "isb",
        "mov x9, #0xf0",
        "msr S3_0_C4_C6_0, x9",
        "mov x9, #1",
        "msr S3_0_C12_C12_7, x9",
        "isb",
        "1:",
        "ldr x10, [x0]",
        // Not LDRSW and LDRSB: the syndrome that QEMU 10.0 gives lacks the sign (SSE), and KVM would extend with
        // zeroes.
        "ldr w11, [x0, #8]",
        "ldrh w12, [x0, #16]",
        "ldrb w13, [x0, #24]",
        "eor x6, x6, x10",
        "add x6, x6, x11",
        "ror x6, x6, #7",
        "add x6, x6, x12",
        "mul x6, x6, x7",
        "eor x6, x6, x13",
        "str x6, [x0, #32]",
        "msr cntv_tval_el0, x4",
        "mov x9, #1",
        "msr cntv_ctl_el0, x9",
        "isb",
        // CNTV_CTL_EL0.ISTATUS: the time is over.
        "2: wfi",
        "mrs x9, cntv_ctl_el0",
        "tbz x9, #2, 2b",
        // ICC_IAR1_EL1: 1023 until the interrupt has arrived.
        "3: mrs x14, S3_0_C12_C12_0",
        "dsb sy",
        "cmp x14, #1023",
        "b.eq 3b",
        "msr cntv_ctl_el0, xzr",
        "isb",
        "msr S3_0_C12_C12_1, x14",
        "isb",
        "str w14, [x0, #40]",
        "subs x1, x1, #1",
        "b.ne 1b",
        "str xzr, [x0, #48]",
        "4: wfi",
        "b 4b",
        "kvm_guest_end:",
        ".popsection",
    );

    unsafe extern "C" {
        static kvm_guest_start: u8;
        static kvm_guest_end: u8;
    }

    /// What the guest does next.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Step {
        Read { offset: u64, size: usize },
        Computed,
        Interrupt,
    }

    /// A round.
    const STEPS: [Step; 6] = [
        Step::Read { offset: 0, size: 8 },
        Step::Read { offset: 8, size: 4 },
        Step::Read { offset: 16, size: 2 },
        Step::Read { offset: 24, size: 1 },
        Step::Computed,
        Step::Interrupt,
    ];
    const COMPUTED: u64 = 32;
    const INTERRUPT: u64 = 40;
    const DONE: u64 = 48;

    /// What the guest should compute.
    struct Model {
        /// Where the random numbers come from (xorshift64).
        random: u64,
        read: [u64; 4],
        computed: u64,
    }

    impl Model {
        fn next(&mut self) -> u64 {
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            self.random
        }

        /// The round's reads are complete.
        fn compute(&mut self) {
            let [doubleword, word, halfword, byte] = self.read;
            let mixed = (self.computed ^ doubleword).wrapping_add(word).rotate_right(7);
            let product = mixed.wrapping_add(halfword).wrapping_mul(FACTOR);
            self.computed = product ^ byte;
        }
    }

    fn number(data: &[u8]) -> u64 {
        data.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
    }

    /// Memory for the guest, with its program at the beginning.
    fn memory() -> *mut u8 {
        // SAFETY: new pages at an address of the kernel's choice.
        let place = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                RAM_SIZE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if place == libc::MAP_FAILED {
            fail("no memory for a guest");
        }
        let place = place.cast::<u8>();
        let (start, end) = (&raw const kvm_guest_start, &raw const kvm_guest_end);
        // SAFETY: from the first label to the second there is the program, which is smaller than the memory.
        unsafe { place.copy_from_nonoverlapping(start, end.addr() - start.addr()) };
        place
    }

    fn attribute(group: u32, attribute: u32, value: Option<&u64>) -> kvm_device_attr {
        let addr = value.map_or(0, |value| std::ptr::from_ref(value) as u64);
        kvm_device_attr { group, attr: u64::from(attribute), addr, flags: 0 }
    }

    fn interrupt_controller(vm: &VmFd) -> DeviceFd {
        let mut device = kvm_create_device { type_: kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3, fd: 0, flags: 0 };
        let Ok(gic) = vm.create_device(&mut device) else { skip("no virtual GICv3") };
        for attribute in [
            attribute(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_DIST, Some(&DISTRIBUTOR)),
            attribute(KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_VGIC_V3_ADDR_TYPE_REDIST, Some(&REDISTRIBUTOR)),
            attribute(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT, None),
        ] {
            gic.set_device_attr(&attribute).unwrap_or_else(|error| fail(&format!("the virtual GIC: {error}")));
        }
        gic
    }

    /// Sets a register of `struct kvm_regs` (Linux `arch/arm64/include/uapi/asm/kvm.h`): x0 to x30, SP, PC, PSTATE.
    fn set_register(vcpu: &VcpuFd, number: u64, value: u64) {
        let id = KVM_REG_ARM64 | KVM_REG_SIZE_U64 | u64::from(KVM_REG_ARM_CORE) | (2 * number);
        vcpu.set_one_reg(id, &value.to_le_bytes()).unwrap_or_else(|error| fail(&format!("register {number}: {error}")));
    }

    /// One of KVM's counters for this virtual machine.
    fn counter(vm: &VmFd, name: &str) -> u64 {
        let path = format!("/sys/kernel/debug/kvm/{}-{}/{name}", std::process::id(), vm.as_raw_fd());
        let text = fs::read_to_string(&path).unwrap_or_else(|error| fail(&format!("{path}: {error}")));
        text.trim().parse().unwrap_or_else(|error| fail(&format!("{path}: {error}")))
    }

    /// Takes a new guest through all rounds, on the CPU on which this runs.
    fn guest(kvm: &Kvm, cpu: usize) {
        let vm = kvm.create_vm().unwrap_or_else(|error| fail(&format!("no virtual machine: {error}")));
        let memory = memory();
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: RAM,
            memory_size: RAM_SIZE as u64,
            userspace_addr: memory as u64,
        };
        // SAFETY: the memory is this guest's alone, and stays until the guest is gone.
        unsafe { vm.set_user_memory_region(region) }.unwrap_or_else(|error| fail(&format!("memory: {error}")));
        let mut vcpu = vm.create_vcpu(0).unwrap_or_else(|error| fail(&format!("no virtual CPU: {error}")));
        let mut target = kvm_vcpu_init::default();
        let ready = vm.get_preferred_target(&mut target).and_then(|()| vcpu.vcpu_init(&target));
        ready.unwrap_or_else(|error| fail(&format!("the virtual CPU: {error}")));
        let _gic = interrupt_controller(&vm);

        let frequency: u64;
        // SAFETY: reads a register that EL0 may read.
        unsafe { std::arch::asm!("mrs {}, cntfrq_el0", out(reg) frequency, options(nomem, nostack)) };
        let mut model = Model { random: FACTOR ^ cpu as u64, read: [0; 4], computed: cpu as u64 };
        // Long enough, also on a busy machine, that WFI traps before it is over.
        for (number, value) in [
            (0, MMIO),
            (1, ROUNDS),
            (2, DISTRIBUTOR),
            (3, REDISTRIBUTOR),
            (4, frequency / 300),
            (6, model.computed),
            (7, FACTOR),
            (32, RAM),
            (33, PSTATE),
        ] {
            set_register(&vcpu, number, value);
        }

        let (mut exits, mut steps) = (0_u64, STEPS.iter().copied().cycle());
        loop {
            let finished = exits == ROUNDS * STEPS.len() as u64;
            let exit = vcpu.run().unwrap_or_else(|error| fail(&format!("CPU {cpu}: KVM_RUN: {error}")));
            let step = steps.next().unwrap_or(Step::Computed);
            match (exit, step) {
                (VcpuExit::MmioWrite(address, [0, ..]), _) if finished && address == MMIO + DONE => break,
                (VcpuExit::MmioRead(address, data), Step::Read { offset, size })
                    if !finished && address == MMIO + offset && data.len() == size =>
                {
                    let value = model.next();
                    data.copy_from_slice(&value.to_le_bytes()[..size]);
                    model.read[offset as usize / 8] = number(data);
                }
                (VcpuExit::MmioWrite(address, data), Step::Computed) if !finished && address == MMIO + COMPUTED => {
                    model.compute();
                    if number(data) != model.computed {
                        fail(&format!("CPU {cpu}, exit {exits}: {:#x}, not {:#x}", number(data), model.computed));
                    }
                }
                (VcpuExit::MmioWrite(address, data), Step::Interrupt) if !finished && address == MMIO + INTERRUPT => {
                    if number(data) != TIMER {
                        fail(&format!("CPU {cpu}, exit {exits}: interrupt {} and not {TIMER}", number(data)));
                    }
                }
                (exit, step) => fail(&format!("CPU {cpu}, exit {exits}: {exit:?} where {step:?} was due")),
            }
            exits += 1;
        }
        let slept = counter(&vm, "wfi_exit_stat");
        // On a busy machine the time may be over before the guest comes to its WFI.
        if slept < ROUNDS / 2 {
            fail(&format!("CPU {cpu}: only {slept} WFI exits in {ROUNDS} rounds"));
        }
        println!("kvm: CPU {cpu}: {exits} MMIO exits and {slept} WFI exits, all results right");
    }

    /// Keeps this program on one CPU. False if that is not online.
    fn stay_on(cpu: usize) -> bool {
        // SAFETY: a bit set, all zeroes.
        let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        // SAFETY: the set is large enough for any CPU that Linux has by default, and `CPU_SET` ignores others.
        unsafe { libc::CPU_SET(cpu, &mut set) };
        // SAFETY: reads the set; 0 is this thread.
        unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) == 0 }
    }

    pub fn run() {
        let Ok(kvm) = Kvm::new() else { skip("no KVM") };
        let named: Vec<usize> = env::args().skip(1).map(|word| word.parse().expect("a CPU's number")).collect();
        let all = named.is_empty();
        let cpus = if all { (0..libc::CPU_SETSIZE as usize).collect() } else { named };
        for cpu in cpus {
            if stay_on(cpu) {
                // SAFETY: sets a timer; its signal ends this program.
                unsafe { libc::alarm(PATIENCE) };
                guest(&kvm, cpu);
            } else if !all {
                fail(&format!("CPU {cpu} is not online"));
            }
        }
    }
}
