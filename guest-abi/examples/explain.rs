//! Says what a call is, from what was in x0 at an HVC: the number as hexadecimal or decimal digits. Without one: all.
//!
//!     cargo run --package guest-abi --example explain 0x1

use std::env;
use std::process::ExitCode;

use guest_abi::table::{CALLS, CallDoc, State};

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn explain(call: &CallDoc) {
    println!("{:#x} {}: {}", call.number, call.name, call.purpose);
    for (register, meaning) in call.inputs {
        println!("  in  {register}: {meaning}");
    }
    for (register, meaning) in call.outputs {
        println!("  out {register}: {meaning}");
    }
    for (state, answer) in State::ALL.iter().zip(call.answers) {
        println!("  {}: {answer}", state.name());
    }
}

fn main() -> ExitCode {
    let Some(text) = env::args().nth(1) else {
        for call in CALLS {
            println!("{:#12x} {}: {}", call.number, call.name, call.purpose);
        }
        return ExitCode::SUCCESS;
    };
    let Some(call) = number(&text).and_then(|number| CALLS.iter().find(|call| call.number == number)) else {
        eprintln!("{text} is no call that is known");
        return ExitCode::FAILURE;
    };
    explain(call);
    ExitCode::SUCCESS
}
