import { STATUS } from '../errors/reasons.ts';
import {
  type ServerReflectionRequest,
  ServerReflectionResponse,
  ServerReflectionService,
} from '../gen/grpc/reflection/v1/reflection.ts';
import type { HandlersOf } from './adapter.ts';
import { type Descriptors, readDescriptors } from './descriptors.ts';

type Answer = NonNullable<ServerReflectionResponse['messageResponse']>;

const DESCRIPTORS = new URL('../gen/descriptors.binpb', import.meta.url);

const notFound = (what: string): Answer => ({
  $case: 'errorResponse',
  value: { errorCode: STATUS.NOT_FOUND, errorMessage: `${what} is not part of this server's contract` },
});

const files = (found: Uint8Array[] | null, what: string): Answer =>
  found === null
    ? notFound(what)
    : { $case: 'fileDescriptorResponse', value: { fileDescriptorProto: found.map((file) => Buffer.from(file)) } };

function answer(request: ServerReflectionRequest, descriptors: Descriptors): Answer {
  const asked = request.messageRequest;
  switch (asked?.$case) {
    case 'listServices':
      return { $case: 'listServicesResponse', value: { service: descriptors.services.map((name) => ({ name })) } };
    case 'fileByFilename':
      return files(descriptors.fileByName(asked.value), `file ${asked.value}`);
    case 'fileContainingSymbol':
      return files(descriptors.fileOfSymbol(asked.value), `symbol ${asked.value}`);
    case 'fileContainingExtension':
      return notFound(`extension ${asked.value.extensionNumber} of ${asked.value.containingType}`);
    case 'allExtensionNumbersOfType':
      // proto3 files declare no extensions.
      return descriptors.isMessage(asked.value)
        ? { $case: 'allExtensionNumbersResponse', value: { baseTypeName: asked.value, extensionNumber: [] } }
        : notFound(`message ${asked.value}`);
    case undefined:
      return {
        $case: 'errorResponse',
        value: {
          errorCode: STATUS.INVALID_ARGUMENT,
          errorMessage: 'message_request: expected one of its fields, found none',
        },
      };
  }
}

/**
 * The reflection service, version 1, from the descriptors of the generated code. `v1alpha` has the same messages under another
 * name, so the same handlers serve it: see `V1_ALPHA`.
 */
export function createReflection(): HandlersOf<typeof ServerReflectionService> {
  let descriptors: Promise<Descriptors> | null = null;
  return {
    serverReflectionInfo: async function* (requests) {
      descriptors ??= readDescriptors(DESCRIPTORS);
      const known = await descriptors;
      for await (const request of requests) {
        yield ServerReflectionResponse.create({
          validHost: request.host,
          originalRequest: request,
          messageResponse: answer(request, known),
        });
      }
    },
  };
}

/** The service definition under the name that older clients (such as Python's grpcio-reflection before 1.60) ask for. */
export const V1_ALPHA = {
  serverReflectionInfo: {
    ...ServerReflectionService.serverReflectionInfo,
    path: '/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo',
  },
} as const;
