import { BlockList, isIP } from 'node:net';
import { availableParallelism, homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { z } from 'zod';
import { COMPUTE_TYPES, type DeviceSetting, isDeviceSetting } from '../engine/device-setting.ts';

/** How a setting is written as text, on the command line and in the environment. */
type SettingKind = 'text' | 'number' | 'switch' | 'list' | 'map';

/** What `--help` says, and how text becomes a value. */
export interface SettingInfo {
  readonly kind: SettingKind;
  /** Placeholder of the value, such as `PORT`. */
  readonly argument: string;
  readonly description: string;
}

/** The settings' texts, beside the schema. */
export const settingInfo: z.core.$ZodRegistry<SettingInfo> = z.registry<SettingInfo>();

function setting<Schema extends z.ZodType>(
  schema: Schema,
  kind: SettingKind,
  argument: string,
  description: string,
): Schema {
  settingInfo.add(schema, { kind, argument, description });
  return schema;
}

/** Names of models, as in `models/{id}`. */
export const MODEL_ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$/;

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/** True where only this machine can reach the address. */
export function isLoopback(host: string): boolean {
  if (host === 'localhost') return true;
  const version = isIP(host);
  return version !== 0 && loopback.check(host, version === 4 ? 'ipv4' : 'ipv6');
}

/** Where applications keep their data on this system. */
export function defaultDataDirectory(env: NodeJS.ProcessEnv, platform: NodeJS.Platform): string {
  if (env.XDG_DATA_HOME) return join(env.XDG_DATA_HOME, 'luthier');
  if (platform === 'darwin') return join(homedir(), 'Library', 'Application Support', 'luthier');
  if (platform === 'win32') return join(env.LOCALAPPDATA ?? join(homedir(), 'AppData', 'Local'), 'luthier');
  return join(homedir(), '.local', 'share', 'luthier');
}

const path = z
  .string()
  .min(1, 'expected a path, found an empty text')
  .transform((value) => resolve(value));

const count = (minimum: number, maximum: number) =>
  z
    .int(`expected a whole number`)
    .min(minimum, `expected at least ${minimum}`)
    .max(maximum, `expected at most ${maximum}`);

/** `HOST:PORT`; an IPv6 address stands in brackets. */
const hostAndPort = z.string().transform((text, context) => {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]+)\]|([^:[\]]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  const port = Number(digits);
  if (host !== undefined && port <= 65_535) return { host, port };
  context.addIssue({
    code: 'custom',
    message: `expected HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464; found ${JSON.stringify(text)}`,
  });
  return z.NEVER;
});

/** What is said of an address that strangers could reach. */
const exposed = (host: string): string =>
  `${host} can be reached from other machines and there is no authentication yet: ` +
  'listen on 127.0.0.1, or add --insecure where the network itself keeps strangers out';

const GIBIBYTE = 2 ** 30;

/** Every setting of the server. Defaults that depend on the system are set by `withSystemDefaults`. */
export const serverConfigSchema = z
  .strictObject({
    host: setting(z.string().min(1).default('127.0.0.1'), 'text', 'HOST', 'Address to listen on.'),
    port: setting(count(0, 65_535).default(50_051), 'number', 'PORT', 'Port to listen on; 0 takes a free one.'),
    insecure: setting(
      z.boolean().default(false),
      'switch',
      '',
      'Listen on an address other machines can reach, without encryption and authentication.',
    ),
    dataDir: setting(
      path,
      'text',
      'FOLDER',
      "Where jobs, data sets and adapters are kept. Default: luthier in the user's data folder.",
    ),
    models: setting(
      z.record(z.string().regex(MODEL_ID, 'expected letters, digits, ".", "_" and "-", at most 63'), path).default({}),
      'map',
      'NAME=PATH',
      'A base model: a .gguf file or a Hugging Face folder.',
    ),
    modelRoots: setting(
      z.array(path).default([]),
      'list',
      'FOLDER',
      'Folder under which clients may name models and adapters by path.',
    ),
    exportRoots: setting(
      z.array(path).default([]),
      'list',
      'FOLDER',
      'Folder under which clients may have adapters written.',
    ),
    device: setting(
      z
        .custom<DeviceSetting>(
          isDeviceSetting,
          'expected auto, cpu, cpu×N (N ranks), cuda, cuda:N (the GPU with number N) or cuda:N,M',
        )
        .default('auto'),
      'text',
      'DEVICE',
      'What computes, also as --devices: auto (a GPU where one can be used, else the processor), cpu, cuda, cuda:N; several that train together: cuda:N,M or cpu×N.',
    ),
    computeType: setting(
      z.enum(COMPUTE_TYPES, 'expected bf16 or f16').default('bf16'),
      'text',
      'TYPE',
      'What a GPU trains in: bf16, or f16 with loss scaling.',
    ),
    embeddingInHostMemory: setting(
      z.boolean().default(false),
      'switch',
      '',
      'On a GPU: embedding tables stay in locked memory of the host, except where the output layer is the same table.',
    ),
    threads: setting(
      count(1, 1024),
      'number',
      'N',
      'Threads for matrix products. Default: as many as the process may use.',
    ),
    logLevel: setting(
      z.enum(['trace', 'debug', 'info', 'warn', 'error', 'silent']).default('info'),
      'text',
      'LEVEL',
      'trace, debug, info, warn, error or silent.',
    ),
    logFormat: setting(
      z.enum(['json', 'text']).default('json'),
      'text',
      'FORMAT',
      'Log lines on standard error: json or text.',
    ),
    maxMessageBytes: setting(
      count(65_536, 2 ** 31 - 1).default(16 * 2 ** 20),
      'number',
      'BYTES',
      'Largest message received.',
    ),
    maxDatasetBytes: setting(count(1, 2 ** 40).default(2 * GIBIBYTE), 'number', 'BYTES', 'Largest data set.'),
    maxTokenCacheBytes: setting(
      count(0, 2 ** 50).default(16 * GIBIBYTE),
      'number',
      'BYTES',
      'Token files that are kept for the next job on the same data; 0 keeps none.',
    ),
    maxAdapterBytes: setting(count(1, 2 ** 40).default(4 * GIBIBYTE), 'number', 'BYTES', 'Largest uploaded adapter.'),
    maxPromptTokens: setting(
      count(1, 2 ** 24).default(131_072),
      'number',
      'N',
      "Longest prompt, beside the model's context.",
    ),
    maxConcurrentGenerations: setting(
      count(1, 4096).default(32),
      'number',
      'N',
      'Generate and ScoreTokens calls at once.',
    ),
    maxConcurrentJobs: setting(
      count(1, 64).default(1),
      'number',
      'N',
      'Training jobs that run at the same time on the device; what does not fit into its memory beside them fails.',
    ),
    maxQueuedJobs: setting(count(1, 100_000).default(1000), 'number', 'N', 'Training jobs waiting at once.'),
    maxEndedJobs: setting(
      count(1, 10_000_000).nullable().default(null),
      'number',
      'N',
      'Ended training jobs that are kept, the latest ones; others are deleted, their adapters are not. Default: all.',
    ),
    maxEndedJobDays: setting(
      count(1, 36_500).nullable().default(null),
      'number',
      'DAYS',
      'Days that ended training jobs are kept; then they are deleted, their adapters are not. Default: for ever.',
    ),
    metricsAddress: setting(
      hostAndPort.nullable().default(null),
      'text',
      'HOST:PORT',
      "Serve Prometheus' metrics over HTTP at /metrics of this address; port 0 takes a free one. Default: do not.",
    ),
    metricFiles: setting(
      z.boolean().default(true),
      'switch',
      '',
      "Write every job's metrics.jsonl and TensorBoard event file, in runs of the data folder. --no-metric-files: do not.",
    ),
    otlpEndpoint: setting(
      z
        .url({ protocol: /^https?$/, error: 'expected a URL, such as http://127.0.0.1:4318' })
        .nullable()
        .default(null),
      'text',
      'URL',
      "Send OpenTelemetry's traces of calls and jobs to this collector, by OTLP over HTTP. Default: do not.",
    ),
    drainSeconds: setting(
      z.number().min(0, 'expected at least 0').max(3600, 'expected at most 3600').default(10),
      'number',
      'SECONDS',
      'Time that calls under way get to finish when the server is asked to end.',
    ),
  })
  .superRefine((config, context) => {
    if (config.insecure) return;
    const hosts = { host: config.host, metricsAddress: config.metricsAddress?.host ?? 'localhost' };
    for (const [key, host] of Object.entries(hosts)) {
      if (!isLoopback(host)) context.addIssue({ code: 'custom', path: [key], message: exposed(host) });
    }
  });

/** The server's settings, checked. */
export type ServerOptions = z.output<typeof serverConfigSchema>;

/** Fills in the defaults that depend on the system. */
export function withSystemDefaults(
  values: Readonly<Record<string, unknown>>,
  env: NodeJS.ProcessEnv,
): Readonly<Record<string, unknown>> {
  return { dataDir: defaultDataDirectory(env, process.platform), threads: availableParallelism(), ...values };
}
