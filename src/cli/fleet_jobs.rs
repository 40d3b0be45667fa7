//! `spiked fleet enqueue`, `work`, `jobs` and `results`: archives of captures that many machines read.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use clap::Args as ClapArgs;
use futures_util::{StreamExt as _, stream};
use serde_json::json;

use crate::capture::{self, printable, s3};
use crate::export::{self, EventFormat, grouped};
use crate::fleet::connection::Connection;
use crate::fleet::jobs::{Enqueued, Job, JobEnd, JobModel, JobQueue, JobState};
use crate::fleet::models::Buckets;
use crate::fleet::results::{self, StoredEnd};
use crate::fleet::work::{self, BlockWriter, CaptureResult, JobReader, WorkSettings};
use crate::model::Model;

use super::Exit;
use super::fleet::ServerArgs;
use super::live::stop_on_signals;
use super::read::job::JobOptions;

/// Queues captures, which `spiked fleet work` reads on any number of machines
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  \
    spiked fleet enqueue /archive/2026 --server nats://nats.example.org:4222\n  \
    spiked fleet enqueue --model web.safetensors /archive -- --events streams --format csv\n  \
    spiked fleet enqueue s3://captures/2026/ --server nats://nats.example.org:4222\n\n\
    Workers open the same absolute paths, or objects of S3, for which they need the AWS_ variables of `spiked read --help`. A capture is\n\
    read once for the same model, options, size and time of change (of objects the entity tag too), however often it is queued.")]
pub struct EnqueueArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Captures, and folders of them, also s3://BUCKET/KEY
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Model file; repeat it to read with several [default: the built-in protocols model]
    #[arg(long, short, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// Reads captures again that were read, or that could not be read
    #[arg(long)]
    again: bool,
    /// Options of `spiked read` that change the result, such as --events, --filter or --mask; events are JSON lines without --format
    #[arg(last = true, value_name = "READ OPTION")]
    options: Vec<String>,
}

/// Reads captures that `spiked fleet enqueue` has queued, until a signal
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet work --until-empty --jobs 4 --server nats://nats.example.org:4222\n\n\
    A job is finished when all of its result is stored. What a worker that ends or dies has begun, another one reads from its begin.\n\
    Exit code 1 if a capture could not be read or was cut short, 3 if there was no job.")]
pub struct WorkArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// End when no capture waits and none is in work, here or elsewhere
    #[arg(long)]
    until_empty: bool,
    /// Captures that are read at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: u16,
    /// Worker threads for each capture
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
}

/// Shows how far the queue of captures is, and which could not be read
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  spiked fleet jobs --json | jq .failed\n\n\
    Exit code 1 if a capture could not be read.")]
pub struct JobsArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints what the workers have read: the table of `spiked read --each-file` over all captures, or the events
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  spiked fleet results\n  spiked fleet results --events > eve.json\n\n\
    Exit code 1 if a capture could not be read or was cut short, 3 if there is no result.")]
pub struct ResultsArgs {
    #[command(flatten)]
    servers: ServerArgs,
    /// Print the events, each once, in the format that they were queued with
    #[arg(long)]
    events: bool,
    /// Results of this batch: of the captures that were queued with the same models and options
    #[arg(long, value_name = "ID")]
    batch: Option<String>,
}

/// Reads captures as `spiked read` does.
struct CaptureReader {
    workers: u16,
}

impl JobReader for CaptureReader {
    fn read(&self, job: &Job, models: Vec<Arc<Model>>, out: BlockWriter, stop: Arc<AtomicBool>) -> Result<CaptureResult, String> {
        let reading = JobOptions::read(&job.options, Path::new(&job.capture), models, self.workers, Box::new(out), stop);
        let reading = reading.map_err(|error| format!("{error:#}"))?;
        Ok(CaptureResult {
            exit: reading.exit as u8,
            failure: reading.failure,
            stopped: reading.stopped,
            summary: reading.summary,
        })
    }

    fn report(&self, line: &str) {
        eprintln!("spiked: {}", super::escaped(line));
    }
}

/// The files of models and what a job says about them; the built-in one if there is none.
fn models(paths: &[PathBuf]) -> Result<Vec<(JobModel, Vec<u8>)>> {
    let built_in = [PathBuf::from(Model::built_in()?.name)];
    let mut models: Vec<(JobModel, Vec<u8>)> = Vec::new();
    for path in if paths.is_empty() { &built_in } else { paths } {
        let model = Model::open(path)?;
        if models.iter().any(|(other, _)| other.name == model.name) {
            bail!("--model {}: two models would be called '{}' in events; rename one of the files", path.display(), model.name);
        }
        let bytes = model.to_bytes();
        models.push((JobModel { name: model.name, sha256: crate::fleet::models::sha256(&bytes) }, bytes));
    }
    Ok(models)
}

/// The job of a file or object. Waits for the server of an object.
fn job(path: &Path, models: &[JobModel], options: &[String]) -> Result<Job> {
    let (models, options) = (models.to_vec(), options.to_vec());
    let open = |source| capture::CaptureError::Open { path: printable(path), source };
    if s3::is_s3(path) {
        let s3::ObjectState { size, modified, etag } = s3::state(path).map_err(open)?;
        return Ok(Job { capture: path.display().to_string(), size, modified, etag, models, options });
    }
    let absolute = std::path::absolute(path).with_context(|| printable(path))?;
    let capture = absolute.to_str().with_context(|| format!("{}: the name is not UTF-8; rename the file", printable(path)))?;
    let metadata = std::fs::metadata(path).map_err(open)?;
    if !metadata.is_file() {
        bail!("{}: not a file", printable(path));
    }
    Ok(Job { capture: capture.into(), size: metadata.len(), modified: work::modified(&metadata), etag: None, models, options })
}

/// Requests to the servers that are on their way at once.
const ENQUEUED_AT_ONCE: usize = 64;

/// Numbers of captures by what became of them.
#[derive(Default)]
struct EnqueuedCounts {
    new: u64,
    waiting: u64,
    done: u64,
    failed: u64,
}

pub async fn enqueue(args: &EnqueueArgs) -> Result<Exit> {
    let mut options = args.options.clone();
    if !options.iter().any(|option| option.starts_with("--format")) {
        options.extend(["--format".into(), "jsonl".into()]);
    }
    JobOptions::parse(&options)?;
    let captures = args.captures.clone();
    let inputs = tokio::task::spawn_blocking(move || capture::expand(&captures)).await??;
    let files = models(&args.model)?;
    let connection = args.servers.connect().await?;
    let buckets = Buckets::open(&connection).await?;
    for (_, bytes) in &files {
        buckets.store(bytes).await?;
    }
    let models: Vec<JobModel> = files.into_iter().map(|(model, _)| model).collect();
    let queue = JobQueue::open(&connection).await?;
    let (mut counts, mut exit) = (EnqueuedCounts::default(), Exit::Ok);
    for path in &inputs.skipped {
        eprintln!("spiked: {}: skipped: not a capture", printable(path));
        exit = Exit::Partly;
    }
    let mut jobs = Vec::new();
    let mut described = stream::iter(inputs.captures.clone())
        .map(|path| {
            let (models, options) = (models.clone(), options.clone());
            tokio::task::spawn_blocking(move || job(&path, &models, &options))
        })
        .buffered(ENQUEUED_AT_ONCE);
    while let Some(job) = described.next().await {
        match job? {
            Ok(job) => jobs.push(job),
            Err(error) if inputs.captures.len() > 1 => {
                eprintln!("spiked: {}", super::escaped(&format!("{error:#}")));
                exit = Exit::Partly;
            }
            Err(error) => return Err(error),
        }
    }
    let batch = jobs.first().map(Job::batch);
    let mut results = stream::iter(&jobs).map(|job| queue.enqueue(job, args.again)).buffered(ENQUEUED_AT_ONCE);
    while let Some(result) = results.next().await {
        match result? {
            Enqueued::New => counts.new += 1,
            Enqueued::Waiting => counts.waiting += 1,
            Enqueued::Ended(JobState::Done) => counts.done += 1,
            Enqueued::Ended(JobState::Failed) => counts.failed += 1,
        }
    }
    say!("batch {}: {} captures queued", batch.unwrap_or_default(), grouped(counts.new));
    for (count, what) in [
        (counts.waiting, "wait or are in work already"),
        (counts.done, "were read before; --again reads them again"),
        (counts.failed, "could not be read before; --again tries them again"),
    ] {
        if count > 0 {
            say!("{} {what}", grouped(count));
        }
    }
    Ok(exit)
}

pub async fn work(args: &WorkArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let settings = WorkSettings {
        name: args.servers.name().into(),
        until_empty: args.until_empty,
        jobs: args.jobs.into(),
        stop: stop_on_signals(),
    };
    let totals = work::work(&connection, &settings, Arc::new(CaptureReader { workers: args.workers })).await?;
    let all = totals.done + totals.partly + totals.failed;
    say!("{} captures: {} could not be read", grouped(all), grouped(totals.failed));
    Ok(match all {
        0 if args.until_empty => Exit::Nothing,
        _ if totals.partly + totals.failed > 0 => Exit::Partly,
        _ => Exit::Ok,
    })
}

/// Time over which the rate is measured.
const RATE_WINDOW: Duration = Duration::from_secs(600);

pub async fn jobs(args: &JobsArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let (waiting, in_work) = JobQueue::open(&connection).await?.backlog().await?;
    let ends = results::ends(&connection).await?;
    let (done, failed): (Vec<&StoredEnd>, Vec<&StoredEnd>) = ends.iter().partition(|(end, _)| end.state == JobState::Done);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_nanos() as i128);
    let rate = results::rate(&ends, now, RATE_WINDOW);
    let left = rate.filter(|_| waiting + in_work > 0).map(|rate| ((waiting + in_work) as f64 / rate).ceil() as u64);
    let retried = ends.iter().filter(|(end, _)| end.deliveries > 1).count();
    let exit = if failed.is_empty() { Exit::Ok } else { Exit::Partly };
    let reasons: Vec<&str> = failed.iter().filter_map(|(end, _)| end.reason.as_deref()).collect();
    let batches = results::batches(ends.clone());
    if args.json {
        let batch = |(id, ends): (&String, &Vec<StoredEnd>)| {
            let end = &ends[0].0;
            json!({ "batch": id, "ended": ends.len(), "models": end.job.models, "options": end.job.options })
        };
        let value = json!({
            "waiting": waiting, "in_work": in_work, "done": done.len(), "retried": retried,
            "failed": failed.iter().map(|(end, _)| json!({ "capture": end.job.capture, "reason": end.reason })).collect::<Vec<_>>(),
            "captures_per_second": rate, "seconds_left": left,
            "batches": batches.iter().map(batch).collect::<Vec<_>>(),
        });
        say!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(exit);
    }
    let counts = [waiting, in_work, done.len() as u64, failed.len() as u64].map(grouped);
    say!("{} wait, {} in work, {} done, {} failed", counts[0], counts[1], counts[2], counts[3]);
    if let Some(rate) = rate {
        let left = left.map_or_else(String::new, |left| format!(", {} s left", grouped(left)));
        say!("{rate:.1} captures/s in the last {} minutes{left}", RATE_WINDOW.as_secs() / 60);
    }
    batches.iter().for_each(|(id, ends)| say!("{}", describe(id, ends)));
    reasons.iter().for_each(|reason| say!("failed: {}", super::escaped(reason)));
    Ok(exit)
}

/// A line about a batch.
fn describe(id: &str, ends: &[StoredEnd]) -> String {
    let job = &ends[0].0.job;
    let models = job.models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ");
    let line = format!("batch {id}: {} captures, model {models}, {}", grouped(ends.len() as u64), job.options.join(" "));
    super::escaped(&line)
}

/// The results of the batch that was chosen, or of the only one.
async fn chosen(args: &ResultsArgs, connection: &Connection) -> Result<Option<Vec<JobEnd>>> {
    let mut batches = results::batches(results::ends(connection).await?);
    let wanted = match &args.batch {
        Some(batch) => batches.remove(batch),
        None if batches.len() > 1 => {
            let lines = batches.iter().map(|(id, ends)| format!("\n  {}", describe(id, ends))).collect::<String>();
            bail!("there are several batches; choose one with --batch:{lines}");
        }
        None => batches.pop_first().map(|(_, ends)| ends),
    };
    Ok(wanted.map(|ends| ends.into_iter().map(|(end, _)| end).collect()))
}

pub async fn results(args: &ResultsArgs) -> Result<Exit> {
    let connection = args.servers.connect().await?;
    let Some(ends) = chosen(args, &connection).await? else {
        eprintln!("spiked: no result");
        return Ok(Exit::Nothing);
    };
    let (done, failed): (Vec<JobEnd>, Vec<JobEnd>) = ends.into_iter().partition(|end| end.state == JobState::Done);
    for reason in failed.iter().filter_map(|end| end.reason.as_deref()) {
        eprintln!("spiked: {}", super::escaped(reason));
    }
    let mut wrong = failed.len() as u64;
    wrong += done.iter().filter(|end| end.exit != Exit::Ok as u8 && end.exit != Exit::Nothing as u8).count() as u64;
    let mut output = io::BufWriter::new(io::stdout().lock());
    if args.events {
        if done.first().is_some_and(|end| JobOptions::parse(&end.job.options).is_ok_and(|o| o.format() == Some(EventFormat::Csv)))
        {
            writeln!(output, "{}", export::CSV_HEADER)?;
        }
        let mut written = Ok(());
        let missing = results::events(&connection, &done, |text| {
            written = output.write_all(text);
            written.is_ok()
        });
        let missing = missing.await?;
        written?;
        if missing > 0 {
            eprintln!("spiked: {missing} blocks of events are not on the servers any more, or not valid");
            wrong += missing;
        }
    } else {
        let (table, lacking) = results::table(&connection, &done).await?;
        if lacking > 0 {
            eprintln!("spiked: the tables of {lacking} captures are not on the servers any more, or not valid");
            wrong += lacking;
        }
        write!(output, "{table}")?;
    }
    output.flush()?;
    let packets: u64 = done.iter().map(|end| end.totals.packets).sum();
    Ok(match (wrong, packets) {
        (0, 0) => Exit::Nothing,
        (0, _) => Exit::Ok,
        (_, 0) => Exit::Unreadable,
        _ => Exit::Partly,
    })
}
