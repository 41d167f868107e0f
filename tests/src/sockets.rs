//! The sockets of processes (Linux).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::Context as _;

/// Where a process listens, by what the kernel says.
///
/// # Errors
/// When the kernel does not say, or there is no such process of this user.
pub fn listening(pid: u64) -> anyhow::Result<Vec<(IpAddr, u16)>> {
    const LISTEN: &str = "0A";
    let mut own = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One that was closed meanwhile is no listener.
        if let Ok(target) = std::fs::read_link(entry?.path()) {
            let target = target.display().to_string();
            if let Some(inode) = target.strip_prefix("socket:[") {
                own.push(inode.trim_end_matches(']').to_owned());
            }
        }
    }
    let mut found = Vec::new();
    for family in ["tcp", "tcp6"] {
        let table = std::fs::read_to_string(format!("/proc/{pid}/net/{family}"))?;
        for line in table.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, _, _, _, _, _, inode, ..] = fields[..] else {
                anyhow::bail!("a line of another kind: {line}");
            };
            if state == LISTEN && own.iter().any(|known| known == inode) {
                found.push(address(local)?);
            }
        }
    }
    Ok(found)
}

/// Words of 32 bits as this machine has them, then the port.
fn address(text: &str) -> anyhow::Result<(IpAddr, u16)> {
    let (address, port) = text.split_once(':').context("no port")?;
    let mut bytes = Vec::new();
    for at in (0..address.len()).step_by(8) {
        let word = u32::from_str_radix(address.get(at..at + 8).context("half a word")?, 16)?;
        bytes.extend(word.to_ne_bytes());
    }
    let port = u16::from_str_radix(port, 16)?;
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Ok((Ipv4Addr::from(four).into(), port));
    }
    let sixteen = <[u8; 16]>::try_from(bytes.as_slice())
        .ok()
        .context("no address")?;
    Ok((Ipv6Addr::from(sixteen).to_canonical(), port))
}
