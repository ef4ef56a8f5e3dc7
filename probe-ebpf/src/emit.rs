//! The only place that reserves and submits events.

use aya_ebpf::helpers::{bpf_get_smp_processor_id, generated::bpf_ktime_get_boot_ns};
use probe_common::{Plain, config::NODE, event::Header};

use crate::{
    maps::{BUCKETS, Bucket, BucketKey, EVENTS, setting, stats},
    read::{self, Ptr},
};

/// Boot-time nanoseconds.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: no arguments, always callable.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// A header for an event in the namespace `net` (`struct net *`, 0 when not known).
#[inline(always)]
pub fn header(kind: u16, ts: u64, net: Ptr) -> Header {
    let (netns, cookie) = read::net(net);
    Header { ts, cookie, netns, kind, cpu: cpu() }
}

#[inline(always)]
pub fn cpu() -> u16 {
    // SAFETY: no arguments, always callable.
    unsafe { bpf_get_smp_processor_id() as u16 }
}

/// Sends an event made by `fill` in place, unless the pod has used up its allowance of this kind.
/// `fill` must write every field: the memory is not zeroed. Whether it was sent.
#[inline(always)]
pub fn send<T: Plain>(kind: u16, pod: u64, ts: u64, fill: impl FnOnce(*mut T)) -> bool {
    if !allowed(kind, pod, ts) {
        limited(kind);
        return false;
    }
    send_anyway(kind, fill)
}

/// As [`send`], and takes no allowance: for what goes beside an event that took one.
#[inline(always)]
pub fn send_anyway<T: Plain>(kind: u16, fill: impl FnOnce(*mut T)) -> bool {
    match EVENTS.reserve::<T>(0) {
        Some(mut entry) => {
            fill(entry.as_mut_ptr());
            entry.submit(0);
            true
        }
        None => {
            stats(|s| {
                if let Some(n) = s.lost.get_mut(usize::from(kind)) {
                    *n += 1;
                }
            });
            false
        }
    }
}

#[inline(always)]
fn limited(kind: u16) {
    stats(|s| {
        if let Some(n) = s.limited.get_mut(usize::from(kind)) {
            *n += 1;
        }
    });
}

/// Takes a token from the node's bucket alone, for what no event goes beside.
#[inline(always)]
pub fn node_allows(kind: u16, ts: u64) -> bool {
    let (burst, token_ns) = (u64::from(setting!(burst)), setting!(token_ns));
    let key = BucketKey { kind: u32::from(kind), whole_node: 1, pod: 0 };
    let allowed = take(&key, ts, burst, token_ns);
    if !allowed {
        limited(kind);
    }
    allowed
}

/// Takes a token from the pod's bucket and one from the node's, which bounds what a flood from ever
/// new sources can send.
#[inline(always)]
fn allowed(kind: u16, pod: u64, ts: u64) -> bool {
    let (burst, token_ns) = (u64::from(setting!(burst)), setting!(token_ns));
    let kind = u32::from(kind);
    take(&BucketKey { kind, whole_node: 0, pod }, ts, burst, token_ns)
        && take(&BucketKey { kind, whole_node: 1, pod: 0 }, ts, burst * NODE, token_ns / NODE)
}

/// Two CPUs may take the same token: a few events more than the rate do no harm.
#[inline(always)]
fn take(key: &BucketKey, ts: u64, burst: u64, token_ns: u64) -> bool {
    let Some(bucket) = BUCKETS.get_ptr_mut(key) else {
        let full = Bucket { filled: ts, tokens: burst.saturating_sub(1) };
        return BUCKETS.insert(key, &full, 0).is_ok();
    };
    // SAFETY: the pointer is to a live map value; a torn update costs a token at most.
    let bucket = unsafe { &mut *bucket };
    let token_ns = token_ns.max(1);
    let earned = ts.saturating_sub(bucket.filled) / token_ns;
    if earned > 0 {
        bucket.filled += earned * token_ns;
        bucket.tokens += earned;
        if bucket.tokens > burst {
            bucket.tokens = burst;
        }
    }
    if bucket.tokens == 0 {
        return false;
    }
    bucket.tokens -= 1;
    true
}
