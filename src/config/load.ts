import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { ConfigError } from './errors.ts';
import { helpText } from './help.ts';
import { nearestName } from './nearest.ts';
import { type ServerOptions, serverConfigSchema, withSystemDefaults } from './schema.ts';
import { SETTINGS, type Setting } from './settings.ts';

/** What the command line asks for. */
export type Command =
  | { readonly kind: 'help'; readonly text: string }
  | { readonly kind: 'version' }
  | { readonly kind: 'serve'; readonly options: ServerOptions };

type Values = Record<string, unknown>;

const PREFIX = 'LUTHIER_';
const CONFIG_VARIABLE = 'LUTHIER_CONFIG';

function meant(wrong: string, names: Iterable<string>): string {
  const nearest = nearestName(wrong, names);
  return nearest === null ? '' : `; did you mean ${nearest}?`;
}

/** The value of a setting from its texts; several only for lists and maps. `where` names the place in errors. */
function fromText(setting: Setting, texts: readonly string[], where: string): unknown {
  const last = texts.at(-1) ?? '';
  switch (setting.kind) {
    case 'text':
      return last;
    case 'list':
      return texts;
    case 'number': {
      const value = last.trim() === '' ? Number.NaN : Number(last);
      if (Number.isFinite(value)) return value;
      throw new ConfigError(`${where}: expected a number, found ${JSON.stringify(last)}`);
    }
    case 'switch':
      if (/^(true|1|yes|on)$/i.test(last)) return true;
      if (/^(false|0|no|off)$/i.test(last)) return false;
      throw new ConfigError(`${where}: expected true or false, found ${JSON.stringify(last)}`);
    case 'map':
      return Object.fromEntries(
        texts.map((text) => {
          const split = text.indexOf('=');
          if (split < 1) throw new ConfigError(`${where}: expected NAME=PATH, found ${JSON.stringify(text)}`);
          return [text.slice(0, split), text.slice(split + 1)];
        }),
      );
  }
}

interface Flags {
  readonly values: Values;
  readonly config: string | null;
  readonly command: 'help' | 'version' | null;
}

function readFlags(argv: readonly string[]): Flags {
  const byFlag = new Map(SETTINGS.flatMap((one) => [[one.flag, one] as const, [`--${one.name}`, one] as const]));
  // One setting, whether it names one device or several.
  const device = byFlag.get('--device');
  if (device) byFlag.set('--devices', device);
  const texts = new Map<Setting, string[]>();
  let config: string | null = null;
  for (let index = 0; index < argv.length; index++) {
    const word = argv[index] ?? '';
    if (word === '--help' || word === '-h') return { values: {}, config, command: 'help' };
    if (word === '--version') return { values: {}, config, command: 'version' };
    if (!word.startsWith('--')) throw new ConfigError(`unexpected argument ${JSON.stringify(word)}; see --help`);
    const equals = word.indexOf('=');
    const flag = equals < 0 ? word : word.slice(0, equals);
    const negated = byFlag.get(flag.replace(/^--no-/, '--'));
    if (flag.startsWith('--no-') && negated?.kind === 'switch' && equals < 0) {
      texts.set(negated, ['false']);
      continue;
    }
    const setting = byFlag.get(flag);
    if (!setting && flag !== '--config') {
      throw new ConfigError(`unknown option ${flag}${meant(flag, [...byFlag.keys(), '--config', '--help'])}`);
    }
    let text = equals < 0 ? argv[index + 1] : word.slice(equals + 1);
    if (equals < 0 && setting?.kind === 'switch') text = 'true';
    else if (equals < 0) index++;
    if (text === undefined)
      throw new ConfigError(`${flag} needs a value${setting ? `: ${flag} ${setting.argument}` : ''}`);
    if (setting) texts.set(setting, [...(texts.get(setting) ?? []), text]);
    else config = text;
  }
  const values = [...texts].map(([setting, given]) => [setting.key, fromText(setting, given, setting.flag)]);
  return { values: Object.fromEntries(values), config, command: null };
}

function readEnvironment(env: NodeJS.ProcessEnv): Values {
  const byVariable = new Map(SETTINGS.map((setting) => [setting.variable, setting]));
  const values: Values = {};
  for (const [variable, text] of Object.entries(env)) {
    if (!variable.startsWith(PREFIX) || variable === CONFIG_VARIABLE || text === undefined || text === '') continue;
    const setting = byVariable.get(variable);
    if (setting) {
      const several = setting.kind === 'list' || setting.kind === 'map';
      values[setting.key] = fromText(setting, several ? text.split(',') : [text], variable);
      continue;
    }
    // Other programs of the project have variables of their own; only what looks like a slip is refused.
    const nearest = nearestName(variable, byVariable.keys(), 2);
    if (nearest !== null) throw new ConfigError(`unknown variable ${variable}; did you mean ${nearest}?`);
  }
  return values;
}

function parseFile(file: string): unknown {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw new ConfigError(`the configuration file ${file} cannot be read: ${(cause as Error).message}`, { cause });
  }
  try {
    // Loaded only where there is a file: it costs more than the rest of the configuration.
    const { parse } = createRequire(import.meta.url)('yaml') as typeof import('yaml');
    return parse(text);
  } catch (cause) {
    throw new ConfigError(`the configuration file ${file} is neither YAML nor JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
}

function readConfigFile(file: string): Values {
  const content = parseFile(file) ?? {};
  if (typeof content !== 'object' || Array.isArray(content)) {
    throw new ConfigError(`${file}: expected settings by name, such as port: 50051`);
  }
  const byName = new Map(SETTINGS.map((setting) => [setting.name, setting]));
  return Object.fromEntries(
    Object.entries(content).map(([name, value]) => {
      const setting = byName.get(name);
      if (!setting) throw new ConfigError(`${file}: unknown setting ${name}${meant(name, byName.keys())}`);
      return [setting.key, value];
    }),
  );
}

/** Checks values by the schema's own names; `where` names a setting for people. */
function check(values: Readonly<Values>): ServerOptions {
  const result = serverConfigSchema.safeParse(values);
  if (result.success) return result.data;
  const problems = result.error.issues.map((issue) => {
    const setting = SETTINGS.find(({ key }) => key === issue.path[0]);
    const rest = issue.path.slice(1).map(String).join('.');
    return `${setting?.flag ?? issue.path.join('.')}${rest === '' ? '' : ` ${rest}`}: ${issue.message}`;
  });
  throw new ConfigError(problems.join('\n'));
}

/**
 * Reads the settings: flags over environment over file over defaults.
 * @throws ConfigError with a message for the person who started the server
 */
export function loadConfig(argv: readonly string[], env: NodeJS.ProcessEnv): Command {
  const flags = readFlags(argv);
  if (flags.command === 'help') return { kind: 'help', text: helpText() };
  if (flags.command === 'version') return { kind: 'version' };
  const file = flags.config ?? env[CONFIG_VARIABLE] ?? null;
  const values = { ...(file === null ? {} : readConfigFile(file)), ...readEnvironment(env), ...flags.values };
  return { kind: 'serve', options: check(withSystemDefaults(values, env)) };
}
