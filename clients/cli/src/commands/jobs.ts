/** `luthier jobs`: list, get, watch, report, pause, resume, cancel, delete. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import {
  DeleteTrainingJobResponse,
  eachPage,
  JobState,
  type TrainingEvent,
  TrainingJob,
} from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  numberOption,
  printJson,
  printLines,
  withConnection,
  withSession,
} from '../connection.ts';
import { parseFlag } from '../flag-values.ts';
import { followJob } from '../follow-job.ts';
import { checkpointText, formatRecord, formatTable, stateName } from '../format.ts';
import type { Io } from '../io.ts';
import { appended } from '../job-input.ts';
import { resourceName } from '../names.ts';
import { choice } from '../training-flags.ts';
import { reportPage } from '../view/report-page.ts';
import { writePage } from '../write-page.ts';
import type { SetExitCode } from './set-exit-code.ts';

const STATES = Object.fromEntries(
  Object.values(JobState)
    .filter((state) => state > 0)
    .map((state): [string, JobState] => [stateName(state), state]),
);

const jobName = (value: string): string => resourceName('trainingJobs', value);

function describe(job: TrainingJob): string[] {
  const { lastStep: step, lastEvaluation: evaluation, lastCheckpoint: checkpoint, failure } = job;
  const entries: [string, string][] = [
    ['name', job.name],
    ['state', stateName(job.state)],
    ['model', job.spec?.model ?? ''],
    ['dataset', job.spec?.dataset ?? ''],
    ['last event', String(job.lastSequence)],
    ['created', job.createTime?.toISOString() ?? ''],
  ];
  for (const [name, value] of Object.entries(job.spec?.labels ?? {})) entries.push(['label', `${name}=${value}`]);
  if (job.queuePosition > 0) entries.push(['queue position', String(job.queuePosition)]);
  if (step !== undefined) entries.push(['step', `${step.globalStep}/${step.maxSteps}, loss ${step.loss.toFixed(4)}`]);
  if (evaluation !== undefined) entries.push(['held-out loss', evaluation.loss.toFixed(4)]);
  if (checkpoint !== undefined) entries.push(['checkpoint', checkpointText(checkpoint)]);
  if (job.adapter !== '') entries.push(['adapter', job.adapter]);
  if (failure !== undefined) entries.push(['failure', `${failure.message} (${failure.reason})`]);
  return formatRecord(entries);
}

interface ListFlags extends ConnectionOptions {
  readonly state?: string[];
  readonly label?: string[];
}

function listCommand(io: Io): Command {
  const command = new Command('list').description('all jobs, newest first');
  command.option('--state <states...>', `only these: ${Object.keys(STATES).join(', ')}`);
  command.option('--label <value>', 'only those with this label: name=value; may be repeated', appended);
  return withConnection(command).action(async (options: ListFlags) => {
    const states = (options.state ?? []).map((state) => choice('state', STATES, state));
    const labels = parseFlag('label', 'labels', options.label ?? []) as Record<string, string>;
    await withSession(io, options, async (session) => {
      const rows: string[][] = [];
      for await (const { jobs } of eachPage((pageToken) =>
        session.client.listTrainingJobs({ pageToken, states, labels }),
      )) {
        for (const job of jobs) {
          if (session.json) await printJson(session, TrainingJob, job);
          const { lastStep: step } = job;
          const progress = step === undefined ? '' : `${step.globalStep}/${step.maxSteps}`;
          rows.push([
            job.name,
            stateName(job.state),
            progress,
            job.spec?.model ?? '',
            job.createTime?.toISOString() ?? '',
          ]);
        }
      }
      if (!session.json) await printLines(session, formatTable(['NAME', 'STATE', 'STEP', 'MODEL', 'CREATED'], rows));
    });
  });
}

function watchCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = new Command('watch').argument('<job>').description("a job's events until it ends; Ctrl-C detaches");
  command.option('--after <sequence>', 'only events after this one', numberOption(0, true), 0);
  return withConnection(command).action(
    async (name: string, options: ConnectionOptions & { readonly after: number }) => {
      const open = (session: Parameters<typeof followJob>[0]) =>
        followJob(session, (attach) =>
          session.client.watchTrainingJob(jobName(name), { ...attach, afterSequence: options.after }),
        );
      setExitCode((await withSession(io, options, open)).exitCode);
    },
  );
}

function deleteCommand(io: Io): Command {
  const command = new Command('delete')
    .argument('<job>')
    .description('forget a job that has ended, with its events; its adapter stays');
  return withConnection(command).action((job: string, options: ConnectionOptions) =>
    withSession(io, options, async (session) => {
      await session.client.deleteTrainingJob(jobName(job));
      if (session.json) await printJson(session, DeleteTrainingJobResponse, {});
      else await printLines(session, [`deleted ${jobName(job)}`]);
    }),
  );
}

function reportCommand(io: Io): Command {
  const command = new Command('report')
    .argument('<job>')
    .description('a job until now as one page that a browser shows');
  command.requiredOption('--html <file>', 'where to write it');
  return withConnection(command).action((name: string, options: ConnectionOptions & { readonly html: string }) =>
    withSession(io, options, async (session) => {
      const job = await session.client.getTrainingJob(jobName(name));
      const events: TrainingEvent[] = [];
      // What happens from now on is not waited for.
      for await (const event of session.client.watchTrainingJob(job.name)) {
        if (event.sequence <= job.lastSequence) events.push(event);
        if (event.sequence >= job.lastSequence) break;
      }
      writePage(options.html, reportPage(job, events));
      if (session.json) await printJson(session, TrainingJob, job);
      else await printLines(session, [`wrote ${resolve(options.html)}, with ${events.length} events`]);
    }),
  );
}

/** Calls that answer with the job. */
type JobCall = 'getTrainingJob' | 'pauseTrainingJob' | 'resumeTrainingJob' | 'cancelTrainingJob';

/** The group of commands. */
export function jobsCommand(io: Io, setExitCode: SetExitCode): Command {
  const show = (name: string, description: string, call: JobCall) =>
    withConnection(new Command(name).argument('<job>').description(description)).action(
      (job: string, options: ConnectionOptions) =>
        withSession(io, options, async (session) => {
          const found = await session.client[call](jobName(job));
          if (session.json) await printJson(session, TrainingJob, found);
          else await printLines(session, describe(found));
        }),
    );
  return new Command('jobs')
    .description('training jobs')
    .addCommand(listCommand(io))
    .addCommand(show('get', 'one job', 'getTrainingJob'))
    .addCommand(watchCommand(io, setExitCode))
    .addCommand(reportCommand(io))
    .addCommand(show('pause', 'stop a job behind a checkpoint; the device is free then', 'pauseTrainingJob'))
    .addCommand(
      show('resume', 'queue a paused job, or a failed one that has a checkpoint, to go on', 'resumeTrainingJob'),
    )
    .addCommand(show('cancel', 'end a job; takes effect within one micro-step', 'cancelTrainingJob'))
    .addCommand(deleteCommand(io));
}
