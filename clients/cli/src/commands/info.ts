/** `luthier info`: the server and its machine. */
import { Command } from 'commander';
import { GetServerInfoResponse } from '../../../typescript/src/index.ts';
import {
  type ConnectionOptions,
  printJson,
  printLines,
  type Session,
  withConnection,
  withSession,
} from '../connection.ts';
import { describeGpu, formatBytes, formatRecord } from '../format.ts';
import type { Io } from '../io.ts';

async function info(session: Session): Promise<void> {
  const found = await session.client.getServerInfo();
  if (session.json) return printJson(session, GetServerInfoResponse, found);
  await printLines(
    session,
    formatRecord([
      ['version', found.version],
      ['device', `${found.device}, ${found.deviceName}`],
      ...(found.devices.length > 1 ? [['trains on', found.devices.join(', ')] as const] : []),
      ['chosen because', found.deviceReason],
      ['attention', found.attention],
      ['threads', `${found.threads} with ${found.instructionSet}`],
      ['memory', formatBytes(found.totalMemoryBytes)],
      ...found.gpus.map((gpu) => [`cuda:${gpu.index}`, describeGpu(gpu)] as const),
      ['jobs', `${found.runningJobs} running, ${found.queuedJobs} queued`],
      ['generations', String(found.activeGenerations)],
      ['templates', found.templates.join(', ')],
      ['model roots', found.modelRoots.join(', ')],
      ['export roots', found.exportRoots.join(', ')],
      ['largest message', formatBytes(found.maxReceiveBytes)],
    ]),
  );
}

/** The command. */
export function infoCommand(io: Io): Command {
  const command = new Command('info').description('the server, its device and its limits');
  return withConnection(command).action((options: ConnectionOptions) => withSession(io, options, info));
}
