/** `luthier train`: upload, train, watch, export. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import { LuthierError, Status } from '../../../typescript/src/index.ts';
import { type ConnectionOptions, printLines, type Session, withConnection, withSession } from '../connection.ts';
import { deleteUploads } from '../delete-uploads.ts';
import { EXIT } from '../failure.ts';
import { followJob, type Outcome } from '../follow-job.ts';
import type { Io } from '../io.ts';
import { settingsOf, uploadInput, withTrainingFlags } from '../job-input.ts';
import type { TrainSettings } from '../train-settings.ts';
import type { SetExitCode } from './set-exit-code.ts';

/** Creates the job and follows it. A job that is refused leaves none of the data behind that were uploaded for it. */
async function createAndFollow(session: Session, settings: TrainSettings): Promise<Outcome> {
  const { spec, uploaded } = await uploadInput(session, settings);
  let created = false;
  try {
    return await followJob(session, async function* (options) {
      for await (const event of session.client.train(spec, options)) {
        created = true;
        yield event;
      }
    });
  } catch (error) {
    // A server that is not reached may have the job.
    if (error instanceof LuthierError && error.code === Status.UNAVAILABLE) created = true;
    throw error;
  } finally {
    if (!created) await deleteUploads(session, uploaded);
  }
}

async function train(session: Session, settings: TrainSettings): Promise<number> {
  const { run } = settings;
  const outcome = await createAndFollow(session, settings);
  if (outcome.exitCode !== EXIT.ok) return outcome.exitCode;
  const { adapter } = await session.client.getTrainingJob(outcome.job);
  if (run.export !== undefined) {
    const { path } = await session.client.exportAdapter({ name: adapter, path: resolve(run.export) });
    if (!session.json) await printLines(session, [`exported to ${path}`]);
  }
  if (!session.json) {
    const command = ['luthier chat --adapter', adapter.replace(/^adapters\//, ''), session.reconnect];
    await printLines(session, [`chat with it: ${command.filter(Boolean).join(' ')}`]);
  }
  return outcome.exitCode;
}

/** The command. */
export function trainCommand(io: Io, setExitCode: SetExitCode): Command {
  const command = withTrainingFlags(
    new Command('train').description(
      "fine-tune an adapter and watch it learn; names, defaults and meaning are those of Hugging Face's Trainer and PEFT",
    ),
  );
  return withConnection(command).action(async (options: ConnectionOptions) => {
    const settings = settingsOf(command);
    setExitCode(await withSession(io, options, (session) => train(session, settings)));
  });
}
