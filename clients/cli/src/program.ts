/** The command line: every command, and the exit code it ends with. */
import { Command, CommanderError } from 'commander';
import { adaptersCommand } from './commands/adapters.ts';
import { chatCommand } from './commands/chat.ts';
import { datasetsCommand } from './commands/datasets.ts';
import { doctorCommand } from './commands/doctor.ts';
import { estimateCommand } from './commands/estimate.ts';
import { previewCommand } from './commands/examples.ts';
import { generateCommand } from './commands/generate.ts';
import { infoCommand } from './commands/info.ts';
import { jobsCommand } from './commands/jobs.ts';
import { demoCommand, serveCommand } from './commands/local.ts';
import { modelsCommand } from './commands/models.ts';
import { scoreCommand } from './commands/score.ts';
import type { SetExitCode } from './commands/set-exit-code.ts';
import { detokenizeCommand, renderCommand, tokenizeCommand } from './commands/tokens.ts';
import { trainCommand } from './commands/train.ts';
import { validateCommand } from './commands/validate.ts';
import { describeFailure, EXIT, notBuiltYet } from './failure.ts';
import { type Io, printLine } from './io.ts';
import { SUBCOMMANDS_NOT_BUILT } from './not-built.ts';

/** A command that is refused by name, whatever follows it. */
function refused(path: string): Command {
  return new Command(path.split(' ').at(-1))
    .helpOption(false)
    .allowUnknownOption()
    .argument('[rest...]')
    .action(() => {
      throw notBuiltYet(`luthier ${path}`, '');
    });
}

/** Errors are thrown instead of ending the process, in every command; unknown options are answered with a suggestion. */
function settle(command: Command, io: Io): void {
  command.exitOverride();
  command.configureOutput({
    writeOut: (text) => io.stdout.write(text),
    writeErr: (text) => io.stderr.write(text),
  });
  for (const sub of command.commands) settle(sub, io);
}

function buildProgram(io: Io, setExitCode: SetExitCode): Command {
  const program = new Command('luthier')
    .description('fine-tunes language models and generates from the result')
    .enablePositionalOptions()
    .showSuggestionAfterError();
  const commands = [
    serveCommand(io, setExitCode),
    demoCommand(setExitCode),
    doctorCommand(io, setExitCode),
    trainCommand(io, setExitCode),
    estimateCommand(io, setExitCode),
    generateCommand(io, setExitCode),
    chatCommand(io),
    scoreCommand(io),
    validateCommand(io, setExitCode),
    previewCommand(io),
    tokenizeCommand(io),
    detokenizeCommand(io),
    renderCommand(io),
    datasetsCommand(io),
    jobsCommand(io, setExitCode),
    modelsCommand(io),
    adaptersCommand(io),
    infoCommand(io),
  ];
  for (const command of commands) {
    for (const name of SUBCOMMANDS_NOT_BUILT[command.name()] ?? []) {
      command.addCommand(refused(`${command.name()} ${name}`), { hidden: true });
    }
    program.addCommand(command);
  }
  settle(program, io);
  return program;
}

/** Runs one command line, without the program's own name. Resolves with the exit code; prints errors to standard error. */
export async function run(argv: readonly string[], io: Io): Promise<number> {
  let exitCode: number = EXIT.ok;
  const program = buildProgram(io, (code) => {
    exitCode = code;
  });
  try {
    await program.parseAsync([...argv], { from: 'user' });
    return exitCode;
  } catch (error) {
    // Commander has already printed its message; help and version are no errors.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.ok : EXIT.usage;
    const failure = describeFailure(error);
    for (const line of failure.lines) await printLine(io.stderr, line);
    return failure.exitCode;
  }
}
