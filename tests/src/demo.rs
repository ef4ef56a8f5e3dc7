//! `lab demo`: a short show for a person. stallprobe runs in the foreground as on a node, and one
//! fault after the other is made for real.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    case::{is_of, kernel_release},
    cleanup,
    cli::say,
    dns::{
        A,
        client::{self, Outcome},
        lookup,
        server::{self, Behaviour},
    },
    lab::Lab,
    netns::Pod,
    probe::{Heed, STALLPROBE},
    process::Process,
    race::Race,
    rung::Rung,
    runner,
    scenarios::{
        accept_queue,
        dnat_clash::{self, World},
        snat_clash, table_full,
    },
    services, tcp,
    wait::{SOON, until},
};

const READY: &str = "/run/lab-demo-ready";
/// Time to read what stallprobe says before the next fault.
const PAUSE: Duration = Duration::from_millis(1500);

/// Runs the show and cleans up, whatever became of it.
pub fn run() -> Result<()> {
    runner::throw_away_only()?;
    let result = show();
    cleanup::node()?;
    result
}

fn show() -> Result<()> {
    let lab = Lab::new(Heed::Absent, Rung::Fentry, None)?;
    let stage = Stage::build(&lab)?;
    let mut stallprobe = start()?;
    let result = stage.play();
    // The summary comes with the end.
    let pid = i32::try_from(stallprobe.id()).context("odd process id")?;
    // SAFETY: a signal to our own child, which was not waited for yet.
    unsafe { libc::kill(pid, libc::SIGTERM) };
    let status = until("stallprobe ends", SOON, || {
        stallprobe.try_wait().context("cannot wait for stallprobe")
    })?;
    result?;
    ensure!(status.success(), "stallprobe ended with {status}");
    Ok(())
}

/// Starts stallprobe on this terminal and waits until it watches.
fn start() -> Result<Child> {
    let child = Command::new(STALLPROBE)
        .args(["watch", "--ready-file", READY])
        .spawn()
        .with_context(|| format!("cannot start {STALLPROBE}: is it on PATH?"))?;
    until("stallprobe watches", Duration::from_secs(60), || {
        Ok(Path::new(READY).exists().then_some(()))
    })?;
    fs::remove_file(READY).with_context(|| format!("cannot remove {READY}"))?;
    Ok(child)
}

/// The pods of the show and the programs in them.
struct Stage {
    dns: World,
    /// Whether a clash can be made for a real resolver on this kernel.
    certain: bool,
    pods: Pods,
    race: Race,
    _programs: Vec<Process>,
}

struct Pods {
    checkout: Pod,
    cart: Pod,
    shop: Pod,
    late: Pod,
    world: Pod,
}

impl Stage {
    fn build(lab: &Lab) -> Result<Self> {
        let frontend = lab.pod("frontend")?;
        let backends = [lab.pod("coredns-1")?, lab.pod("coredns-2")?];
        let mut dns = World::new(lab, frontend, backends)?;
        let certain = is_of(dnat_clash::CERTAIN, &kernel_release()?);
        if certain {
            dns.hold()?;
        }
        let pods = Pods {
            checkout: lab.pod("checkout")?,
            cart: lab.pod("cart")?,
            shop: lab.pod("shop")?,
            late: lab.pod("late-dns")?,
            world: lab.outside("resolver")?,
        };
        services::masquerade(None)?;
        let late = Behaviour { delay: Duration::from_millis(1500), ..Behaviour::default() };
        let web = ([0u8; 4], accept_queue::PORT).into();
        let outside = ([0u8; 4], 443).into();
        let programs = vec![
            server::start(&pods.world, "resolver", Behaviour::default())?,
            server::start(&pods.late, "unbound", late)?,
            tcp::listen(&pods.shop, accept_queue::LISTENER, web, 1, false)?,
            tcp::listen(&pods.world, "registry", outside, 128, true)?,
        ];
        Ok(Self { dns, certain, pods, race: Race::new()?, _programs: programs })
    }

    fn play(&self) -> Result<()> {
        let Pods { checkout, cart, shop, late, world } = &self.pods;

        announce(
            "A and AAAA leave a pod at once; two DNS pods behind one service, a slow upstream",
        )?;
        match self.certain {
            true => lookup::glibc(&self.dns.client, "db.example.com").map(drop)?,
            false => {
                let World { client, service, .. } = &self.dns;
                dnat_clash::lose_answers(&self.race, client, *service).map(drop)?;
            }
        }

        announce("two pods behind MASQUERADE use one source port at the same moment")?;
        let pair = [checkout.clone(), cart.clone()];
        let to = SocketAddr::new(world.v4.into(), 53);
        snat_clash::lose_query(&self.race, &pair, to)?.context("the race was never lost")?;

        announce("a program does not accept its connections")?;
        let to = SocketAddr::new(shop.v4.into(), accept_queue::PORT);
        let connects = accept_queue::refuse_syn(checkout, shop, to)?;

        announce("a DNS server takes a second and a half")?;
        let to = SocketAddr::new(late.v4.into(), 53);
        let outcome = client::ask(cart, to, "api.example.com", A, &[SOON])?;
        ensure!(outcome == Outcome::Answered, "the late answer was {outcome:?}");
        drop(connects);

        announce("the connection table is full")?;
        let connects = table_full::fill(checkout, cart, world.v4.into())?;
        thread::sleep(PAUSE);
        drop(connects);
        Ok(())
    }
}

/// One line before each fault, once the reader had time for the last one.
fn announce(what: &str) -> Result<()> {
    thread::sleep(PAUSE);
    say(&format!("\n— now: {what} —\n"))
}
