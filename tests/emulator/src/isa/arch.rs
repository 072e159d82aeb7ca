//! Targets.

/// Targets whose instruction sets are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Generation {
    /// gfx900, gfx906, gfx908.
    Gfx9,
    Gfx90a,
    /// gfx942, gfx950.
    Gfx940,
    Gfx10,
    Gfx11,
    Gfx12,
}

impl Generation {
    pub const ALL: [Generation; 6] = [
        Generation::Gfx9,
        Generation::Gfx90a,
        Generation::Gfx940,
        Generation::Gfx10,
        Generation::Gfx11,
        Generation::Gfx12,
    ];

    /// gfx9 in all its forms: 64 lanes, SDWA, 16-bit results that zero the high half.
    pub fn is_gfx9(self) -> bool {
        self <= Generation::Gfx940
    }
}

/// A target by its LLVM name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arch {
    pub name: Box<str>,
    pub generation: Generation,
}

impl Arch {
    /// `gfx1100`, also with features behind a colon; None if it is none the emulator knows.
    pub fn parse(name: &str) -> Option<Arch> {
        let name = name.split(':').next()?;
        let generation = match name.strip_prefix("gfx")? {
            "900" | "902" | "904" | "906" | "908" | "909" | "90c" | "9-generic" => Generation::Gfx9,
            "90a" => Generation::Gfx90a,
            "940" | "941" | "942" | "950" | "9-4-generic" => Generation::Gfx940,
            n if n.starts_with("10") => Generation::Gfx10,
            n if n.starts_with("11") => Generation::Gfx11,
            n if n.starts_with("12") => Generation::Gfx12,
            _ => return None,
        };
        Some(Arch { name: name.into(), generation })
    }

    /// Lanes that HIP code is compiled for.
    pub fn lanes(&self) -> usize {
        if self.generation.is_gfx9() { 64 } else { 32 }
    }
}
