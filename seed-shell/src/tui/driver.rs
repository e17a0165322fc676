//! Feeds the dashboard: status every few seconds, the selected instance's log as it grows, keys and the window's
//! size; and does what the model wishes.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use seed_shim::{
    logs::{render::human::escaped, show::Form},
    management::{ClientError, words},
    text,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    input,
    model::{Instance, Model, Wish, share},
    view::Screen,
};
use crate::{
    access::{Access, Target},
    commands::{
        Failure,
        logs::Follower,
        restart,
        status::{self, Row},
    },
    instances::Condition,
    registry::Repo,
    ssh::channel::{Input, Session, Size},
};

/// How often instances are asked.
const REFRESH: Duration = Duration::from_secs(2);

/// Lines of a log to begin with.
const LINES: usize = 500;

/// Drawings in a second, at most: a log flood is not worth more.
const FRAME: Duration = Duration::from_millis(33);

/// Processor time at the last look, by instance.
type Looks = HashMap<String, (u64, Instant)>;

/// The dashboard, until it is left.
pub(crate) async fn run(session: &Session) -> Result<u8, Failure> {
    session.want_input();
    let Some(mut size) = session.size.clone() else {
        return Err(Failure::usage("the dashboard needs a terminal"));
    };
    let machine = |_| Failure::new("the dashboard cannot be drawn", "Try again.");
    let now: Size = *size.borrow_and_update();
    let mut screen = Screen::new(now).map_err(machine)?;
    let ended = show(session, &mut screen, &mut size).await;
    session.output.raw(false, screen.leave()).await?;
    match ended? {
        None => Ok(0),
        Some(reason) => Err(Failure::new(reason, "Connect again when you need it.")),
    }
}

/// Why it ended by itself; nothing when its owner left.
async fn show(
    session: &Session,
    screen: &mut Screen,
    size: &mut watch::Receiver<Size>,
) -> Result<Option<String>, Failure> {
    let machine = |_| Failure::new("the dashboard cannot be drawn", "Try again.");
    let idle = session.shared.config.limits.idle();
    let mut model = Model::default();
    let mut looks = Looks::new();
    let mut targets = Vec::new();
    let mut log: Option<Follower> = None;
    let mut refresh = interval(REFRESH);
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last_key = Instant::now();
    let mut drawn = Instant::now() - FRAME;
    loop {
        // Several things that come at once are drawn once.
        let pause = FRAME.saturating_sub(drawn.elapsed());
        let mut wishes: Vec<Wish> = Vec::new();
        if pause.is_zero() {
            let bytes = screen.draw(&mut model).map_err(machine)?;
            drawn = Instant::now();
            if !bytes.is_empty() {
                session.output.raw(false, bytes).await?;
            }
        }
        tokio::select! {
            () = sleep(pause), if !pause.is_zero() => continue,
            input = session.input() => match input {
                Ok(Input::Eof) => return Ok(None),
                Ok(Input::Data(bytes)) => {
                    last_key = Instant::now();
                    wishes.extend(input::keys(&bytes).into_iter().filter_map(|key| model.key(key)));
                }
                Err(error) => return Err(error.into()),
            },
            _ = size.changed() => {
                let now = *size.borrow_and_update();
                screen.resize(now).map_err(machine)?;
            }
            text = next(&mut log) => match text {
                Ok(text) => model.append(&String::from_utf8_lossy(&text)),
                Err(failure) => {
                    log = None;
                    model.say(failure.text().lines().next().unwrap_or_default());
                }
            },
            _ = refresh.tick() => {
                if last_key.elapsed() > idle {
                    return Ok(Some("no key was pressed for too long".into()));
                }
                let repos = seen(session)?;
                if repos.is_empty() {
                    return Ok(Some("no repository lists your key any more".into()));
                }
                let rows = status::rows(&session.shared, &repos).await?;
                targets = rows.iter().map(target).collect();
                wishes.extend(model.update(rows.iter().map(|row| instance(row, &mut looks)).collect()));
            }
        }
        for wish in wishes {
            match wish {
                Wish::Log => {
                    log = match selected(&model, &targets) {
                        Some(target) => {
                            let opened =
                                Follower::open(&session.shared, target, LINES, Form::Human, false);
                            opened.await.ok()
                        }
                        None => None,
                    };
                }
                Wish::Restart(name) => restart(session, &mut model, &targets, &name).await?,
                Wish::Quit => return Ok(None),
            }
        }
    }
}

/// More of the log; without one, nothing ever.
async fn next(log: &mut Option<Follower>) -> Result<Vec<u8>, Failure> {
    match log {
        Some(log) => log.next().await,
        None => std::future::pending().await,
    }
}

/// The repositories that the key sees now, with a terminal.
fn seen(session: &Session) -> Result<Vec<Repo>, Failure> {
    let access = Access::of(&session.shared.registry, &session.who)?;
    Ok(access.repos("", true))
}

fn target(row: &Row) -> (String, Target) {
    let target = Target {
        repo: row.repo.clone(),
        name: row.name.clone(),
    };
    (name(row), target)
}

fn name(row: &Row) -> String {
    format!("{}/{}", row.label, row.name)
}

fn selected<'t>(model: &Model, targets: &'t [(String, Target)]) -> Option<&'t Target> {
    named(&model.current()?.name, targets)
}

fn named<'t>(name: &str, targets: &'t [(String, Target)]) -> Option<&'t Target> {
    let found = targets.iter().find(|(other, _)| other == name);
    found.map(|(_, target)| target)
}

/// Restarts the instance that was asked about, wherever the selection is by now.
async fn restart(
    session: &Session,
    model: &mut Model,
    targets: &[(String, Target)],
    name: &str,
) -> Result<(), Failure> {
    // It may have been taken away since it was drawn.
    let repos = seen(session)?;
    let target = named(name, targets).filter(|target| repos.contains(&target.repo));
    let Some(target) = target else {
        model.say(format!("{name} is not there any more"));
        return Ok(());
    };
    let instances = &session.shared.instances;
    let asked = async {
        let client = instances
            .client(&target.repo.namespace, &target.name)
            .await?;
        client.restart().await?;
        restart::note(&session.who, target);
        Ok::<_, ClientError>(())
    };
    if let Err(error) = asked.await {
        let failure = Failure::from(error);
        model.say(failure.text().lines().next().unwrap_or_default());
    }
    Ok(())
}

fn instance(row: &Row, looks: &mut Looks) -> Instance {
    let name = name(row);
    let state = status::state(&row.condition).to_owned();
    let Condition::Known(status) = &row.condition else {
        looks.remove(&name);
        return Instance {
            name,
            state,
            ..Instance::default()
        };
    };
    let now = (status.cpu_time_ms, Instant::now());
    let cpu = looks
        .insert(name.clone(), now)
        .and_then(|(before, at)| share(before, now.0, now.1.duration_since(at)));
    let all = text::bytes(u64::from(status.memory_mib) << 20);
    let memory = match status.memory_used_bytes {
        0 => all,
        used => format!("{} of {all}", text::bytes(used >> 20 << 20)),
    };
    let stages = status.stages.iter().map(|reached| {
        let stage = words::stage(reached.stage.enum_value_or_default());
        (stage.to_owned(), reached.since_create_ms)
    });
    Instance {
        name,
        state,
        stage: words::stage(status.stage.enum_value_or_default()).into(),
        up: status::uptime(status).map_or_else(String::new, text::duration),
        cpu: cpu.map_or_else(String::new, |share| format!("{share} %")),
        memory,
        stages: stages.collect(),
        problem: escaped(&status::problem(status)),
    }
}
