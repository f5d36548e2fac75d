//! What the operating system says of memory.

/// A line of `/proc/meminfo` by its name, in bytes; none on systems without it.
pub(crate) fn meminfo_bytes(name: &str) -> Option<u64> {
    let text = read("/proc/meminfo")?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let kibibytes: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Bytes that this process can have without swapping and without being ended for them: `MemAvailable`, or what its control group leaves where
/// that is less. None on systems that do not say.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = meminfo_bytes("MemAvailable")?;
    Some(control_group_bytes(read).map_or(machine, |left| left.min(machine)))
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// Where a version of control groups keeps its numbers.
struct Layout {
    /// Of the line in `/proc/self/cgroup`, after its number.
    line: &'static str,
    root: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Pages of files that are given up before anything is refused.
    reclaimable: &'static str,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        line: ":",
        root: "/sys/fs/cgroup",
        limit: "memory.max",
        usage: "memory.current",
        reclaimable: "inactive_file",
    },
    Layout {
        line: "memory:",
        root: "/sys/fs/cgroup/memory",
        limit: "memory.limit_in_bytes",
        usage: "memory.usage_in_bytes",
        reclaimable: "total_inactive_file",
    },
];

/// What the limit of this process's control group leaves; none without a limit. `read` gives a file's text.
fn control_group_bytes(read: impl Fn(&str) -> Option<String>) -> Option<u64> {
    let groups = read("/proc/self/cgroup")?;
    let left = |layout: &Layout| {
        let path = groups.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(layout.line))?;
        // A container sees its own group as the root, whatever its path is outside.
        [path.trim_end_matches('/'), ""].into_iter().find_map(|path| {
            let file = |name: &str| read(&format!("{}{path}/{name}", layout.root));
            let number = |name: &str| file(name)?.trim().parse::<u64>().ok();
            let (limit, usage) = (number(layout.limit)?, number(layout.usage)?);
            let statistics = file("memory.stat").unwrap_or_default();
            let lines = statistics.lines().filter_map(|line| line.split_once(' '));
            let found = lines.filter(|(name, _)| *name == layout.reclaimable).find_map(|(_, value)| value.parse().ok());
            Some(limit.saturating_sub(usage.saturating_sub(found.unwrap_or(0))))
        })
    };
    LAYOUTS.iter().filter_map(left).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        move |path| entries.iter().find(|(name, _)| *name == path).map(|(_, text)| (*text).to_owned())
    }

    #[test]
    fn both_versions_of_control_groups_are_read() {
        let second = [
            ("/proc/self/cgroup", "0::/jobs/a\n"),
            ("/sys/fs/cgroup/jobs/a/memory.max", "1000\n"),
            ("/sys/fs/cgroup/jobs/a/memory.current", "700\n"),
            ("/sys/fs/cgroup/jobs/a/memory.stat", "anon 5\ninactive_file 200\nactive_file 9\n"),
        ];
        assert_eq!(control_group_bytes(files(&second)), Some(500));
        let first = [
            ("/proc/self/cgroup", "3:cpu:/b\n4:memory:/b\n"),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1000"),
            ("/sys/fs/cgroup/memory/memory.usage_in_bytes", "1200"),
            ("/sys/fs/cgroup/memory/memory.stat", "total_inactive_file 100\n"),
        ];
        assert_eq!(control_group_bytes(files(&first)), Some(0), "seen from inside its container");
        let unlimited = [("/proc/self/cgroup", "0::/\n"), ("/sys/fs/cgroup/memory.max", "max\n")];
        assert_eq!(control_group_bytes(files(&unlimited)), None);
        assert_eq!(control_group_bytes(|_| None), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_says_something() {
        let (total, available) = (meminfo_bytes("MemTotal").unwrap(), available_bytes().unwrap());
        assert!(0 < available && available <= total, "{available} of {total}");
    }
}
