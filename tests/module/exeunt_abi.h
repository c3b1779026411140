/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The ABI of EL2 for C: numbers and records of docs/abi.md. Rendered from the crate guest-abi by its test `c_header`;
 * not to be edited. The includer has u8 to u64; records are little-endian.
 */
#ifndef EXEUNT_ABI_H
#define EXEUNT_ABI_H

/* x0 of a call */
#define EXEUNT_CALL_SET_VECTORS 0x0ULL
#define EXEUNT_CALL_SOFT_RESTART 0x1ULL
#define EXEUNT_CALL_RESET_VECTORS 0x2ULL
#define EXEUNT_CALL_FINALISE_EL2 0x3ULL
#define EXEUNT_CALL_GET_ICH_VTR_EL2 0x4ULL
#define EXEUNT_CALL_CALL_COUNT 0x8600ff00ULL
#define EXEUNT_CALL_CALL_UID 0x8600ff01ULL
#define EXEUNT_CALL_REVISION 0x8600ff03ULL
#define EXEUNT_CALL_VERSION 0x86004500ULL
#define EXEUNT_CALL_FEATURES 0x86004501ULL
#define EXEUNT_CALL_STATUS 0xc6004502ULL
#define EXEUNT_CALL_RESTART_POLICY 0x86004503ULL
#define EXEUNT_CALL_LEAVE 0x86004504ULL
#define EXEUNT_CALL_LOCK 0x86004505ULL
#define EXEUNT_CALL_REENTER 0xc6004506ULL
#define EXEUNT_CALL_LOG_READ 0xc6004507ULL
#define EXEUNT_CALL_TRACE 0x86004508ULL
#define EXEUNT_CALL_STAGE2_RANGE 0xc6004509ULL
#define EXEUNT_CALL_PANIC 0x8600450aULL
#define EXEUNT_CALL_CRASH_KERNEL 0x8600450bULL

/* x0 of an answer */
#define EXEUNT_SUCCESS 0x0ULL
#define EXEUNT_STUB_ERR 0xbadca11ULL
#define EXEUNT_NOT_SUPPORTED 0xffffffffffffffffULL
#define EXEUNT_INVALID_PARAMETER 0xfffffffffffffffdULL
#define EXEUNT_LOCKED 0xfffffffffffffffcULL
#define EXEUNT_BUSY 0xfffffffffffffffbULL
#define EXEUNT_WRONG_STATE 0xfffffffffffffffaULL
#define EXEUNT_TIMED_OUT 0xfffffffffffffff9ULL

/* w0 to w3 of CALL_UID */
#define EXEUNT_UID_0 0xe1731786ULL
#define EXEUNT_UID_1 0xc547a0f7ULL
#define EXEUNT_UID_2 0xfafd7da7ULL
#define EXEUNT_UID_3 0xfe5fb2baULL

/* arguments */
#define EXEUNT_PAGE 0x1000ULL
#define EXEUNT_VECTORS_ALIGNMENT 0x800ULL
#define EXEUNT_RESTART_KEXEC 0x1ULL
#define EXEUNT_RESTART_CRASH 0x2ULL
#define EXEUNT_POLICY_LEAVE 0x0ULL
#define EXEUNT_POLICY_RESIDENT 0x1ULL

/* x2 of STATUS */
#define EXEUNT_SUMMARY_STATE_SHIFT 0x0ULL
#define EXEUNT_SUMMARY_ENTRY_LEVEL_SHIFT 0x8ULL
#define EXEUNT_SUMMARY_LOCKED 0x10000ULL
#define EXEUNT_SUMMARY_KEXEC_POLICY_SHIFT 0x11ULL
#define EXEUNT_SUMMARY_CRASH_POLICY_SHIFT 0x12ULL
#define EXEUNT_SUMMARY_KVM_LEND 0x80000ULL
#define EXEUNT_SUMMARY_CPUS_SHIFT 0x20ULL
#define EXEUNT_SUMMARY_LIVE_SHIFT 0x30ULL

/* state of a CPU */
#define EXEUNT_STATE_OFF 0x0ULL
#define EXEUNT_STATE_STUB 0x1ULL
#define EXEUNT_STATE_LIVE 0x2ULL
#define EXEUNT_STATE_LEAVING 0x3ULL
#define EXEUNT_STATE_GONE 0x4ULL

/* records */
#define EXEUNT_STATUS_MAGIC 0x54535845ULL
#define EXEUNT_CPU_LENT_TO_KVM 0x1ULL
#define EXEUNT_CPU_IN_VIRTUAL_EL2 0x2ULL
#define EXEUNT_CPU_DIED 0x4ULL
#define EXEUNT_CPU_WATCHED 0x8ULL

struct exeunt_status_header {
	u32 magic;
	u16 version;
	u16 header_size;
	u32 record_size;
	u16 cpu_size;
	u16 cpus;
	u16 first_cpu;
	u16 described;
	u32 reserved;
	u64 summary;
	u64 time;
	u64 frequency;
	u64 log_end;
	u64 log_size;
};
_Static_assert(sizeof(struct exeunt_status_header) == 64, "status_header");

struct exeunt_status_cpu {
	u64 mpidr;
	u8 state;
	u8 entry_level;
	u16 flags;
	u32 reserved;
	u64 exits[12];
	u64 host_vectors;
	u32 departures;
	u32 returns;
};
_Static_assert(sizeof(struct exeunt_status_cpu) == 128, "status_cpu");

#endif
