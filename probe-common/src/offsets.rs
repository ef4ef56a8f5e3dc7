//! Where the running kernel keeps what the programs read, taken from its BTF by the loader.

/// The member does not exist in the running kernel.
pub const ABSENT: u16 = u16::MAX;

macro_rules! offsets {
    ($($(#[$meta:meta])* $field:ident = $st:literal . $path:literal),+ $(,)?) => {
        /// Byte offsets of members, [`ABSENT`] when the running kernel has no such member.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Offsets {
            $(#[doc = concat!("`struct ", $st, "`: `", $path, "`.")] $(#[$meta])* pub $field: u16,)+
        }
        $crate::plain!(Offsets { $($field: u16),+ });

        impl Offsets {
            pub const UNKNOWN: Self = Self { $($field: ABSENT),+ };
            /// Name of each field, the struct and the path of the member it stands for, in the
            /// order of the fields.
            pub const MEMBERS: &'static [(&'static str, &'static str, &'static str)] =
                &[$((stringify!($field), $st, $path)),+];

            /// Sets a field by its index in [`Self::MEMBERS`].
            pub fn set(&mut self, index: usize, offset: u16) {
                let mut at = 0usize;
                $(
                    if index == at { self.$field = offset; }
                    at += 1;
                )+
                let _ = at;
            }
            /// Reads a field by its index in [`Self::MEMBERS`].
            pub fn get(&self, index: usize) -> Option<u16> {
                let all = [$(self.$field),+];
                all.get(index).copied()
            }
        }
    };
}

offsets! {
    skb_head = "sk_buff"."head",
    skb_data = "sk_buff"."data",
    skb_len = "sk_buff"."len",
    skb_data_len = "sk_buff"."data_len",
    skb_network_header = "sk_buff"."network_header",
    skb_transport_header = "sk_buff"."transport_header",
    skb_sk = "sk_buff"."sk",
    skb_dev = "sk_buff"."dev",
    skb_iif = "sk_buff"."skb_iif",
    skb_nfct = "sk_buff"."_nfct",
    skb_refdst = "sk_buff"."_skb_refdst",
    dst_dev = "dst_entry"."dev",
    dev_net = "net_device"."nd_net.net",
    dev_ifindex = "net_device"."ifindex",
    net_inum = "net"."ns.inum",
    net_cookie = "net"."net_cookie",
    net_somaxconn = "net"."core.sysctl_somaxconn",
    net_max_syn_backlog = "net"."ipv4.sysctl_max_syn_backlog",
    /// One byte, an int in older kernels: the low byte serves both on little-endian machines.
    net_syncookies = "net"."ipv4.sysctl_tcp_syncookies",
    sk_family = "sock_common"."skc_family",
    sk_state = "sock_common"."skc_state",
    sk_num = "sock_common"."skc_num",
    sk_dport = "sock_common"."skc_dport",
    sk_daddr = "sock_common"."skc_daddr",
    sk_rcv_saddr = "sock_common"."skc_rcv_saddr",
    sk_v6_daddr = "sock_common"."skc_v6_daddr",
    sk_v6_rcv_saddr = "sock_common"."skc_v6_rcv_saddr",
    sk_net = "sock_common"."skc_net.net",
    sk_ack_backlog = "sock"."sk_ack_backlog",
    sk_max_ack_backlog = "sock"."sk_max_ack_backlog",
    sk_err = "sock"."sk_err",
    sk_protocol = "sock"."sk_protocol",
    sk_socket = "sock"."sk_socket",
    /// Counted from the start of `struct socket_alloc`, whose first member is the `struct socket`.
    socket_ino = "socket_alloc"."vfs_inode.i_ino",
    inet_sport = "inet_sock"."inet_sport",
    icsk_qlen = "inet_connection_sock"."icsk_accept_queue.qlen",
    icsk_retransmits = "inet_connection_sock"."icsk_retransmits",
    tcp_snd_una = "tcp_sock"."snd_una",
    req_rcv_isn = "tcp_request_sock"."rcv_isn",
    req_num_retrans = "request_sock"."num_retrans",
    ct_tuplehash = "nf_conn"."tuplehash",
    ct_status = "nf_conn"."status",
    ct_timeout = "nf_conn"."timeout",
    ct_tcp_state = "nf_conn"."proto.tcp.state",
    ct_udp_stream_ts = "nf_conn"."proto.udp.stream_ts",
    ct_net = "nf_conn"."ct_net.net",
    tuplehash_tuple = "nf_conntrack_tuple_hash"."tuple",
    tuple_src = "nf_conntrack_tuple"."src.u3",
    tuple_sport = "nf_conntrack_tuple"."src.u",
    tuple_l3num = "nf_conntrack_tuple"."src.l3num",
    tuple_dst = "nf_conntrack_tuple"."dst.u3",
    tuple_dport = "nf_conntrack_tuple"."dst.u",
    tuple_protonum = "nf_conntrack_tuple"."dst.protonum",
    tuple_dir = "nf_conntrack_tuple"."dst.dir",
    /// Size of `struct nf_conntrack_tuple_hash`, not an offset: the distance of the two
    /// directions' entries in `nf_conn.tuplehash`.
    tuplehash_size = "nf_conntrack_tuple_hash"."sizeof",
    fl4_saddr = "flowi4"."saddr",
    fl4_daddr = "flowi4"."daddr",
    fl4_sport = "flowi4"."uli.ports.sport",
    fl4_dport = "flowi4"."uli.ports.dport",
    fl6_saddr = "flowi6"."saddr",
    fl6_daddr = "flowi6"."daddr",
    fl6_sport = "flowi6"."uli.ports.sport",
    fl6_dport = "flowi6"."uli.ports.dport",
    /// Of a listener also where the kernel has `sk_drop_counters` besides: that is for UDP and raw
    /// sockets.
    sk_drops = "sock"."sk_drops",
    /// Two ints, low and high; from 6.8 on one u32, `high << 16 | low`.
    net_port_range = "net"."ipv4.ip_local_ports.range",
    sk_err_soft = "sock"."sk_err_soft",
    sk_errors = "sock"."sk_error_queue.next",
    sk_errors_len = "sock"."sk_error_queue.qlen",
    skb_cb = "sk_buff"."cb",
    /// Counted from the start of `skb->cb`.
    exterr_errno = "sock_exterr_skb"."ee.ee_errno",
    tcp_bytes_sent = "tcp_sock"."bytes_sent",
    tcp_bytes_received = "tcp_sock"."bytes_received",
    tcp_rcv_nxt = "tcp_sock"."rcv_nxt",
    tcp_copied_seq = "tcp_sock"."copied_seq",
    tcp_total_retrans = "tcp_sock"."total_retrans",
    tcp_packets_out = "tcp_sock"."packets_out",
    /// Jiffies, low 32 bits: when the last payload came.
    icsk_lrcvtime = "inet_connection_sock"."icsk_ack.lrcvtime",
    /// Jiffies, low 32 bits: when payload was sent last.
    tcp_lsndtime = "tcp_sock"."lsndtime",
    sk_receive_queue = "sock"."sk_receive_queue",
    skb_end = "sk_buff"."end",
    shinfo_nr_frags = "skb_shared_info"."nr_frags",
    shinfo_frags = "skb_shared_info"."frags",
    /// Size of `struct page`, not an offset.
    page_size = "page"."sizeof",
    skb_inner_network_header = "sk_buff"."inner_network_header",
    dev_name = "net_device"."name",
    dev_flags = "net_device"."flags",
    dev_link_ops = "net_device"."rtnl_link_ops",
    link_ops_kind = "rtnl_link_ops"."kind",
}
