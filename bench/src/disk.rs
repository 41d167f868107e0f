//! Where the data goes: a real disk, and how fast it is.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::args::Common;

/// File systems that forget: flushing them costs nothing, so nothing would be measured.
const NOT_A_DISK: [&str; 4] = ["tmpfs", "ramfs", "devtmpfs", "hugetlbfs"];
const FLUSHES: usize = 400;

/// A folder for one measurement, removed at the end.
#[derive(Debug)]
pub(crate) struct Place {
    folder: tempfile::TempDir,
    keep: bool,
}

impl Place {
    pub(crate) fn new(common: &Common) -> anyhow::Result<Self> {
        let parent = match &common.data_dir {
            Some(folder) => folder.clone(),
            None => std::env::current_exe()?
                .parent()
                .context("this binary is in no folder")?
                .join("bench-data"),
        };
        std::fs::create_dir_all(&parent)
            .with_context(|| format!("cannot make the folder {}", parent.display()))?;
        let folder = tempfile::Builder::new()
            .prefix("run-")
            .tempdir_in(&parent)?;
        let place = Self {
            folder,
            keep: common.keep,
        };
        let (kind, device) = file_system(place.path())?;
        if NOT_A_DISK.contains(&kind.as_str()) {
            bail!(
                "{} is on {kind}, which never flushes: give a folder on a disk with --data-dir or SAGAMESH_BENCH_DIR",
                place.path().display()
            );
        }
        let [p50, p99] = flush_time(place.path())?;
        println!(
            "data on {kind} ({device}) at {}; a flush of 4 KiB takes {} µs (p99 {} µs)",
            place.path().display(),
            p50.as_micros(),
            p99.as_micros()
        );
        Ok(place)
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A new folder inside.
    pub(crate) fn folder(&self, name: &str) -> anyhow::Result<PathBuf> {
        let folder = self.path().join(name);
        std::fs::create_dir_all(&folder)?;
        Ok(folder)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.keep {
            self.folder.disable_cleanup(true);
            println!("kept {}", self.path().display());
        }
    }
}

/// Type and device of the file system that holds `path`.
fn file_system(path: &Path) -> anyhow::Result<(String, String)> {
    let path = path.canonicalize()?;
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")
        .context("cannot tell the file system: this needs Linux")?;
    let mut best: Option<(usize, String, String)> = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = left.split(' ').nth(4) else {
            continue;
        };
        let mut right = right.split(' ');
        let (Some(kind), Some(device)) = (right.next(), right.next()) else {
            continue;
        };
        let depth = Path::new(point).components().count();
        // A later mount on the same point hides the earlier one.
        if path.starts_with(point) && best.as_ref().is_none_or(|(deepest, ..)| depth >= *deepest) {
            best = Some((depth, kind.to_owned(), device.to_owned()));
        }
    }
    best.map(|(_, kind, device)| (kind, device))
        .context("no mount holds the data folder")
}

/// Median and 99th percentile of appending 4 KiB and flushing it.
fn flush_time(folder: &Path) -> anyhow::Result<[Duration; 2]> {
    let path = folder.join("flush");
    let mut file = std::fs::File::create(&path)?;
    let mut times = Vec::with_capacity(FLUSHES);
    for _ in 0..FLUSHES {
        file.write_all(&[7; 4096])?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok([times[FLUSHES / 2], times[FLUSHES * 99 / 100]])
}
