import { readFile } from 'node:fs/promises';
import type { DescMessage, DescService, FileRegistry } from '@bufbuild/protobuf';

/** The proto files of the contract, as reflection asks for them. */
export interface Descriptors {
  /** Full names, ascending. */
  readonly services: readonly string[];
  /** The serialized file and everything it imports, each once; null where there is no such file. */
  fileByName(name: string): Uint8Array[] | null;
  /** The same for the file that declares a message, field, oneof, enum, enum value, service or method. */
  fileOfSymbol(symbol: string): Uint8Array[] | null;
  isMessage(name: string): boolean;
}

/** Every name that a message declares, itself included. */
function messageSymbols(message: DescMessage): string[] {
  return [
    message.typeName,
    ...message.fields.map((field) => `${message.typeName}.${field.name}`),
    ...message.oneofs.map((oneof) => `${message.typeName}.${oneof.name}`),
  ];
}

const serviceSymbols = (service: DescService): string[] => [
  service.typeName,
  ...service.methods.map((method) => `${service.typeName}.${method.name}`),
];

/** An enum's values are siblings of the enum (https://protobuf.dev/reference/protobuf/proto3-spec/). */
function enumSymbols(typeName: string, values: readonly { readonly name: string }[]): string[] {
  const scope = typeName.slice(0, typeName.lastIndexOf('.') + 1);
  return [typeName, ...values.map((value) => scope + value.name)];
}

/** Symbol to file name. */
function indexOf(registry: FileRegistry): Map<string, string> {
  const files = new Map<string, string>();
  const add = (symbols: readonly string[], file: string): void => {
    for (const symbol of symbols) files.set(symbol, file);
  };
  for (const type of registry) {
    if (type.kind === 'message') add(messageSymbols(type), type.file.proto.name);
    else if (type.kind === 'enum') add(enumSymbols(type.typeName, type.values), type.file.proto.name);
    else if (type.kind === 'service') add(serviceSymbols(type), type.file.proto.name);
    else add([type.typeName], type.file.proto.name);
  }
  return files;
}

/** Reads the descriptors that `buf build` wrote. The library that reads them is loaded with the first request for them. */
export async function readDescriptors(file: URL): Promise<Descriptors> {
  const [{ createFileRegistry, fromBinary, toBinary }, { FileDescriptorProtoSchema, FileDescriptorSetSchema }] =
    await Promise.all([import('@bufbuild/protobuf'), import('@bufbuild/protobuf/wkt')]);
  const registry = createFileRegistry(fromBinary(FileDescriptorSetSchema, await readFile(file)));
  const symbols = indexOf(registry);

  const withImports = (name: string, seen: Set<string>): Uint8Array[] => {
    const found = registry.getFile(name);
    if (!found || seen.has(name)) return [];
    seen.add(name);
    const { proto } = found;
    return [
      toBinary(FileDescriptorProtoSchema, proto),
      ...proto.dependency.flatMap((imported) => withImports(imported, seen)),
    ];
  };
  const fileByName = (name: string): Uint8Array[] | null => {
    const files = withImports(name, new Set());
    return files.length === 0 ? null : files;
  };
  return {
    services: [...registry].flatMap((type) => (type.kind === 'service' ? [type.typeName] : [])).sort(),
    fileByName,
    fileOfSymbol: (symbol) => {
      const name = symbols.get(symbol.replace(/^\./, ''));
      return name === undefined ? null : fileByName(name);
    },
    isMessage: (name) => registry.getMessage(name) !== undefined,
  };
}
