/** `luthier train`: upload, train, watch, export. */
import { resolve } from 'node:path';
import { Command } from 'commander';
import { type ConnectionOptions, printLines, type Session, withConnection, withSession } from '../connection.ts';
import { EXIT } from '../failure.ts';
import { followJob } from '../follow-job.ts';
import type { Io } from '../io.ts';
import { settingsOf, uploadInput, withTrainingFlags } from '../job-input.ts';
import type { TrainSettings } from '../train-settings.ts';
import type { SetExitCode } from './set-exit-code.ts';

async function train(session: Session, settings: TrainSettings): Promise<number> {
  const { spec } = await uploadInput(session, settings);
  const { run } = settings;
  const outcome = await followJob(session, (options) => session.client.train(spec, options));
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
