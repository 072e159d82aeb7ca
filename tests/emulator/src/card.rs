//! The cards that can be emulated, as HIP describes them.

/// One card. Units are HIP's: what RDNA counts are work-group processors of two compute units each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// LLVM's name of the target.
    pub target: &'static str,
    pub name: &'static str,
    /// Follows the target in gcnArchName: ":sramecc+:xnack-".
    pub features: &'static str,
    pub memory: u64,
    pub units: i32,
    /// Lanes of a wave, as hipDeviceProp_t says.
    pub warp: i32,
    pub clock_khz: i32,
    pub memory_clock_khz: i32,
    pub bus_bits: i32,
    pub l2_bytes: i32,
    pub capability: (i32, i32),
    pub integrated: bool,
}

/// The same for all.
pub const MAX_THREADS: u32 = 1024;
pub const MAX_BLOCK: [i32; 3] = [1024, 1024, 1024];
pub const MAX_GRID: [i32; 3] = [i32::MAX, 65536, 65536];
pub const LDS: u32 = 65536;
pub const MAX_THREADS_PER_UNIT: i32 = 2048;

const GB: u64 = 1 << 30;
const MB: i32 = 1 << 20;
const SERVER: &str = ":sramecc+:xnack-";

/// A row of the table below.
#[allow(clippy::too_many_arguments)]
const fn card(
    target: &'static str,
    features: &'static str,
    name: &'static str,
    gigabytes: u64,
    units: i32,
    mhz: [i32; 2],
    bus_bits: i32,
    l2_mb: i32,
    capability: (i32, i32),
) -> Card {
    Card {
        target,
        name,
        features,
        memory: gigabytes * GB,
        units,
        warp: if capability.0 >= 10 { 32 } else { 64 },
        clock_khz: mhz[0] * 1000,
        memory_clock_khz: mhz[1] * 1000,
        bus_bits,
        l2_bytes: l2_mb * MB,
        capability,
        integrated: false,
    }
}

const fn integrated(mut card: Card) -> Card {
    card.integrated = true;
    card
}

/// Figures as the cards' data sheets give them; clocks of the card, of its memory (MHz).
pub const CARDS: [Card; 16] = [
    card("gfx803", "", "AMD Radeon RX 580", 8, 36, [1340, 2000], 256, 2, (8, 0)),
    card("gfx900", ":xnack-", "AMD Radeon RX Vega 64", 8, 64, [1630, 945], 2048, 4, (9, 0)),
    card("gfx906", SERVER, "AMD Radeon VII", 16, 60, [1801, 1000], 4096, 4, (9, 0)),
    card("gfx908", SERVER, "AMD Instinct MI100", 32, 120, [1502, 1200], 4096, 8, (9, 0)),
    card("gfx90a", SERVER, "AMD Instinct MI250X", 64, 110, [1700, 1600], 4096, 8, (9, 0)),
    card("gfx942", SERVER, "AMD Instinct MI300X", 192, 304, [2100, 1300], 8192, 4, (9, 4)),
    card("gfx1010", ":xnack-", "AMD Radeon RX 5700 XT", 8, 20, [2100, 875], 256, 4, (10, 1)),
    card("gfx1030", "", "AMD Radeon RX 6900 XT", 16, 40, [2660, 1000], 256, 4, (10, 3)),
    card("gfx1100", "", "AMD Radeon RX 7900 XTX", 24, 48, [2526, 1249], 384, 6, (11, 0)),
    card("gfx1101", "", "AMD Radeon RX 7800 XT", 16, 30, [2520, 1219], 256, 4, (11, 0)),
    card("gfx1102", "", "AMD Radeon RX 7600", 8, 16, [2850, 1124], 128, 2, (11, 0)),
    integrated(card("gfx1103", "", "AMD Radeon 780M", 4, 6, [2800, 2800], 128, 2, (11, 0))),
    integrated(card("gfx1150", "", "AMD Radeon 890M", 4, 8, [2900, 3750], 128, 2, (11, 5))),
    integrated(card("gfx1151", "", "AMD Radeon 8060S", 64, 20, [2900, 4000], 256, 2, (11, 5))),
    card("gfx1200", "", "AMD Radeon RX 9060 XT", 16, 16, [3320, 1258], 128, 4, (12, 0)),
    card("gfx1201", "", "AMD Radeon RX 9070 XT", 16, 32, [2970, 1258], 256, 8, (12, 0)),
];

impl Card {
    pub fn find(target: &str) -> Option<Card> {
        CARDS.into_iter().find(|card| card.target == target)
    }

    /// "gfx90a:sramecc+:xnack-".
    pub fn arch_name(&self) -> String {
        format!("{}{}", self.target, self.features)
    }
}
