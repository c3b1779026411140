//! What is tested: each file has the cells of one subject.

mod after_kexec;
mod bad_input;
mod bench;
mod black_box;
mod boards;
mod book;
mod boot;
mod conformance;
mod consoles;
mod death;
mod debian;
mod devices;
mod drill;
mod ends;
mod exits;
mod failures;
mod firmware;
mod gdb;
mod guard;
mod guests;
mod hangs;
mod hotplug;
mod interrupts;
mod kernels;
mod kvm;
mod leave;
mod loaders;
mod map;
mod memory;
mod options;
mod people;
mod restarts;
mod seen;
mod shell;
mod traces;
mod trees;
mod uboot;
mod user;
mod virtual_el2;

use crate::cell::Cell;

/// All cells; or the one that the tests of the tests' own end have other tests run.
#[must_use]
pub fn all_or_sleeper() -> Vec<Cell> {
    ends::sleeper().map_or_else(all, |cell| vec![cell])
}

/// All cells.
#[must_use]
pub fn all() -> Vec<Cell> {
    [
        boot::cells(),
        memory::cells(),
        black_box::cells(),
        map::cells(),
        boards::cells(),
        book::cells(),
        hotplug::cells(),
        gdb::cells(),
        guard::cells(),
        guests::cells(),
        hangs::cells(),
        interrupts::cells(),
        user::cells(),
        exits::cells(),
        failures::cells(),
        firmware::cells(),
        bad_input::cells(),
        bench::cells(),
        traces::cells(),
        trees::cells(),
        people::cells(),
        uboot::cells(),
        loaders::cells(),
        options::cells(),
        virtual_el2::cells(),
        conformance::cells(),
        consoles::cells(),
        kvm::cells(),
        leave::cells(),
        after_kexec::cells(),
        devices::cells(),
        death::cells(),
        debian::cells(),
        drill::cells(),
        ends::cells(),
        kernels::cells(),
        restarts::cells(),
        seen::cells(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn no_two_cells_have_the_same_name() {
        let cells = super::all();
        let names: BTreeSet<&str> = cells.iter().map(crate::cell::Cell::name).collect();
        assert_eq!(names.len(), cells.len());
    }

    #[test]
    fn no_cells_directory_lies_in_another_cells() {
        let cells = super::all();
        for one in &cells {
            let inside = format!("{}/", one.name());
            assert!(cells.iter().all(|other| !other.name().starts_with(&inside)), "{}", one.name());
        }
    }
}
