//! The store on disks in memory: crashes, faults and rot, what earlier versions wrote, and space.

mod backup;
mod crash;
mod faults;
mod golden;
mod inspect;
mod mutation;
mod rot;
mod space;
mod support;
