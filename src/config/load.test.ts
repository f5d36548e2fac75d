import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { ConfigError } from './errors.ts';
import { loadConfig } from './load.ts';
import { defaultDataDirectory, isLoopback, type ServerOptions } from './schema.ts';
import { SETTINGS } from './settings.ts';

const folder = mkdtempSync(join(tmpdir(), 'luthier-config-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function load(argv: readonly string[], env: NodeJS.ProcessEnv = {}): ServerOptions {
  const command = loadConfig(argv, env);
  if (command.kind !== 'serve') throw new Error(command.kind);
  return command.options;
}

function file(name: string, text: string): string {
  const path = join(folder, name);
  writeFileSync(path, text);
  return path;
}

test('defaults: loopback, port 50051, the data folder of the system', () => {
  expect(load([], { XDG_DATA_HOME: '/data' })).toMatchObject({
    host: '127.0.0.1',
    port: 50051,
    insecure: false,
    dataDir: '/data/luthier',
    models: {},
    modelRoots: [],
    device: 'auto',
    computeType: 'bf16',
    embeddingInHostMemory: false,
    logLevel: 'info',
    logFormat: 'json',
  });
  expect(load([]).threads).toBeGreaterThan(0);
  expect(defaultDataDirectory({}, 'linux')).toMatch(/\.local\/share\/luthier$/);
  expect(defaultDataDirectory({}, 'darwin')).toMatch(/Application Support\/luthier$/);
});

test('flags win over the environment, which wins over the file', () => {
  const config = file('order.yaml', 'port: 1001\nthreads: 3\nlog-level: debug\n');
  const env = { LUTHIER_PORT: '1002', LUTHIER_THREADS: '4' };
  expect(load(['--config', config, '--port', '1003'], env)).toMatchObject({
    port: 1003,
    threads: 4,
    logLevel: 'debug',
  });
  expect(load([], { LUTHIER_CONFIG: config, LUTHIER_PORT: '1002' })).toMatchObject({ port: 1002, threads: 3 });
});

test('a device from flag, environment and file', () => {
  for (const device of ['auto', 'cpu', 'cuda', 'cuda:0', 'cuda:12', 'cuda:0,1', 'cpu×2', 'cpux16'])
    expect(load(['--device', device]).device).toBe(device);
  expect(load(['--devices=cuda:0,1']).device).toBe('cuda:0,1');
  for (const wrong of ['cuda:', 'cuda:0,', 'cuda:a', 'cpu×0', 'cpu:2'])
    expect(() => load(['--devices', wrong])).toThrow('expected auto');
  expect(load([], { LUTHIER_DEVICE: 'cuda:1' }).device).toBe('cuda:1');
  expect(load(['--config', file('device.yaml', 'device: cuda\n')]).device).toBe('cuda');
  expect(() => load([], { LUTHIER_DEVICE: 'gpu' })).toThrow('--device: expected auto');
});

test('lists and maps: repeated flags, commas in the environment, YAML and JSON files', () => {
  const expected = { models: { a: '/m/a', b: resolve('b=c') }, modelRoots: ['/r', '/s'] };
  expect(load(['--model', 'a=/m/a', '--model=b=b=c', '--model-root', '/r', '--model-roots', '/s'])).toMatchObject(
    expected,
  );
  expect(load([], { LUTHIER_MODELS: 'a=/m/a,b=b=c', LUTHIER_MODEL_ROOTS: '/r,/s' })).toMatchObject(expected);
  const yaml = file('lists.yaml', 'models:\n  a: /m/a\n  b: b=c\nmodel-roots: [/r, /s]\n');
  const json = file('lists.json', JSON.stringify({ models: { a: '/m/a', b: 'b=c' }, 'model-roots': ['/r', '/s'] }));
  expect(load(['--config', yaml])).toMatchObject(expected);
  expect(load(['--config', json])).toMatchObject(expected);
});

test('switches: on, off, with a value, in the environment', () => {
  expect(load(['--insecure']).insecure).toBe(true);
  expect(load(['--no-insecure'], { LUTHIER_INSECURE: '1' }).insecure).toBe(false);
  expect(load(['--insecure=false']).insecure).toBe(false);
  expect(load([], { LUTHIER_INSECURE: 'yes' }).insecure).toBe(true);
  expect(load(['--embedding-in-host-memory']).embeddingInHostMemory).toBe(true);
});

test.each([
  [['--prot', '1'], 'unknown option --prot; did you mean --port?'],
  [['--modl-root', '1'], 'unknown option --modl-root; did you mean --model-root?'],
  [['--zzzzzzzz', '1'], 'unknown option --zzzzzzzz'],
  [['serve'], 'unexpected argument "serve"'],
  [['--port'], '--port needs a value: --port PORT'],
  [['--port', 'x'], '--port: expected a number, found "x"'],
  [['--port', '65536'], '--port: expected at most 65535'],
  [['--port', '1.5'], '--port: expected a whole number'],
  [
    ['--device', 'tpu'],
    '--device: expected auto, cpu, cpu×N (N ranks), cuda, cuda:N (the GPU with number N) or cuda:N,M',
  ],
  [['--device', 'cuda:'], '--device: expected'],
  [['--device', 'cuda:-1'], '--device: expected'],
  [['--device', 'cuda:01'], '--device: expected'],
  [['--compute-type', 'f32'], '--compute-type: expected'],
  [['--model', 'a'], '--model: expected NAME=PATH, found "a"'],
  [['--model', '../a=/x'], '--model'],
  [['--insecure=maybe'], '--insecure: expected true or false, found "maybe"'],
  [['--config', '/nowhere.yaml'], 'the configuration file /nowhere.yaml cannot be read'],
  [['--host', '0.0.0.0'], 'add --insecure'],
  [['--host', '192.168.1.7'], 'add --insecure'],
  [['--metrics-address', '0.0.0.0:9464'], '--metrics-address: 0.0.0.0 can be reached from other machines'],
  [['--metrics-address', '9464'], '--metrics-address: expected HOST:PORT, such as 127.0.0.1:9464'],
  [['--metrics-address', '127.0.0.1:65536'], '--metrics-address: expected HOST:PORT'],
  [['--metrics-address', '::1:9464'], '--metrics-address: expected HOST:PORT'],
])('%j is refused: %s', (argv, message) => {
  expect(() => load(argv)).toThrow(ConfigError);
  expect(() => load(argv)).toThrow(message);
});

test('files and variables with unknown names are refused with the nearest; foreign variables are left alone', () => {
  expect(() => load(['--config', file('slip.yaml', 'prot: 1\n')])).toThrow('unknown setting prot; did you mean port?');
  expect(() => load(['--config', file('list.yaml', '- 1\n')])).toThrow('expected settings by name');
  expect(() => load(['--config', file('broken.yaml', 'a: [1\n')])).toThrow('neither YAML nor JSON');
  expect(() => load(['--config', file('type.yaml', 'port: "80"\n')])).toThrow('--port');
  expect(() => load([], { LUTHIER_PROT: '1' })).toThrow('unknown variable LUTHIER_PROT; did you mean LUTHIER_PORT?');
  expect(load([], { LUTHIER_SERVER: 'localhost:1' }).port).toBe(50051);
});

test('another address than loopback needs --insecure', () => {
  expect(load(['--host', '0.0.0.0', '--insecure']).host).toBe('0.0.0.0');
  expect(load(['--metrics-address', '0.0.0.0:1', '--insecure']).metricsAddress).toEqual({ host: '0.0.0.0', port: 1 });
  expect(load(['--metrics-address', '[::1]:0']).metricsAddress).toEqual({ host: '::1', port: 0 });
  expect(load([]).metricsAddress).toBeNull();
  for (const host of ['127.0.0.1', '127.8.8.8', '::1', 'localhost']) expect(isLoopback(host)).toBe(true);
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'example.org', '::ffff:10.0.0.1'])
    expect(isLoopback(host)).toBe(false);
});

test('--help names every setting with its default; --version', () => {
  const help = loadConfig(['--port', '1', '--help'], {});
  if (help.kind !== 'help') throw new Error(help.kind);
  for (const setting of SETTINGS) expect(help.text).toContain(`${setting.flag} `);
  expect(help.text).toContain('Default: 50051.');
  for (const line of help.text.split('\n')) expect(line.length).toBeLessThanOrEqual(100);
  expect(loadConfig(['--version'], {}).kind).toBe('version');
});
