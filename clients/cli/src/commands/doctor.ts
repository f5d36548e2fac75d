/** `luthier doctor`: what a server would find on this machine. Needs none. */
import { Command } from 'commander';
import { Status } from '../../../typescript/src/index.ts';
import { CliError, EXIT, exitCodeOf } from '../failure.ts';
import { type Io, paint, print, printLine } from '../io.ts';
import type { SetExitCode } from './set-exit-code.ts';

interface DoctorFlags {
  readonly config?: string;
  readonly dataDir?: string;
  readonly device?: string;
  readonly json?: boolean;
}

/** As `src/doctor` makes it; the module itself is loaded only by the command. */
type Report = Awaited<ReturnType<typeof import('../../../../src/doctor/examine.ts').examine>>;

const STYLES = { ok: 'green', absent: 'dim', warning: 'yellow', failure: 'red' } as const;

/** A line for each finding, and one below it for what to do. */
function describe({ findings, canStart, device }: Report, io: Io): string[] {
  const [status, name] = [
    Math.max(...Object.keys(STYLES).map((word) => word.length)) + 2,
    Math.max(...findings.map((finding) => finding.name.length)) + 2,
  ];
  const lines = findings.flatMap((finding) => {
    const word = paint(io.stdout, STYLES[finding.status], finding.status.padEnd(status));
    const line = `${word}${finding.name.padEnd(name)}${finding.found}`;
    return finding.advice === null ? [line] : [line, `${' '.repeat(status + name)}${finding.advice}`];
  });
  const verdict = canStart ? `A server can start, on ${device}.` : 'A server cannot start here.';
  return [...lines, '', verdict];
}

async function doctor(options: DoctorFlags, io: Io): Promise<number> {
  const [{ loadConfig }, { examine }, { thisSystem }] = await Promise.all([
    import('../../../../src/config/load.ts'),
    import('../../../../src/doctor/examine.ts'),
    import('../../../../src/doctor/system.ts'),
  ]);
  // The settings of `luthier serve`, from the same places.
  const given = { '--config': options.config, '--data-dir': options.dataDir, '--device': options.device };
  const flags = Object.entries(given).flatMap(([flag, value]) => (value === undefined ? [] : [`${flag}=${value}`]));
  let command: ReturnType<typeof loadConfig>;
  try {
    command = loadConfig(flags, { ...io.env });
  } catch (error) {
    if ((error as Error).name === 'ConfigError') throw new CliError((error as Error).message);
    throw error;
  }
  if (command.kind !== 'serve') throw new Error(`the settings of a server ask for ${command.kind}`);
  const report = await examine(command.options, thisSystem());
  if (options.json === true) await printLine(io.stdout, JSON.stringify(report));
  else await print(io.stdout, `${describe(report, io).join('\n')}\n`);
  return report.canStart ? EXIT.ok : exitCodeOf(Status.FAILED_PRECONDITION);
}

/** The command. */
export function doctorCommand(io: Io, setExitCode: SetExitCode): Command {
  return new Command('doctor')
    .description('what a server would find on this machine, and what to do where it cannot start')
    .option('--config <file>', 'configuration file of the server')
    .option('--data-dir <folder>', 'data folder of the server')
    .option('--device <device>', 'device of the server: auto, cpu, cuda, cuda:N, or several: cuda:N,M or cpu×N')
    .option('--json', 'print one JSON object')
    .action(async (options: DoctorFlags) => setExitCode(await doctor(options, io)));
}
