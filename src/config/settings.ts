import { z } from 'zod';
import { type SettingInfo, serverConfigSchema, settingInfo } from './schema.ts';

/** One setting under all its names. */
export interface Setting extends SettingInfo {
  /** In the schema: `maxMessageBytes`. */
  readonly key: string;
  /** In a configuration file: `max-message-bytes`. */
  readonly name: string;
  /** On the command line: `--max-message-bytes`; one value of a list: `--model-root`. */
  readonly flag: string;
  /** In the environment: `LUTHIER_MAX_MESSAGE_BYTES`. */
  readonly variable: string;
  /** As text; null: none, or it depends on the system. */
  readonly defaultText: string | null;
}

const kebabCase = (key: string): string => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);

function defaultText(schema: z.core.$ZodType): string | null {
  if (!(schema instanceof z.ZodDefault)) return null;
  const value: unknown = schema.def.defaultValue;
  return typeof value === 'object' || value === false ? null : String(value);
}

function settingOf(key: string, schema: z.core.$ZodType): Setting {
  const info = settingInfo.get(schema);
  if (!info) throw new Error(`setting ${key} has no description`);
  const name = kebabCase(key);
  const flag = info.kind === 'list' || info.kind === 'map' ? name.replace(/s$/, '') : name;
  return {
    ...info,
    key,
    name,
    flag: `--${flag}`,
    variable: `LUTHIER_${name.replaceAll('-', '_').toUpperCase()}`,
    defaultText: defaultText(schema),
  };
}

/** Every setting, in the order of the schema. */
export const SETTINGS: readonly Setting[] = Object.entries(serverConfigSchema.shape).map(([key, schema]) =>
  settingOf(key, schema),
);
