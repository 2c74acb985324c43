// yaml-language-server as an editor runs it: a process that speaks the Language Server Protocol over its standard streams.

import { spawn } from 'node:child_process';
import { pathToFileURL } from 'node:url';

import { require } from './packages.mjs';

const { createMessageConnection, StreamMessageReader, StreamMessageWriter } = require('vscode-jsonrpc/node');

export class Server {
  #process = spawn(process.execPath, [require.resolve('yaml-language-server/bin/yaml-language-server'), '--stdio'], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  #connection = createMessageConnection(
    new StreamMessageReader(this.#process.stdout),
    new StreamMessageWriter(this.#process.stdin),
  );
  #waiting = new Map();

  /** `yaml` is what an editor's settings say under that name. */
  static async started(yaml) {
    const server = new Server();
    const connection = server.#connection;
    const settings = { yaml: { validate: true, hover: true, completion: true, schemaStore: { enable: false }, ...yaml } };
    connection.onRequest('workspace/configuration', ({ items }) => items.map(({ section }) => settings[section] ?? {}));
    connection.onRequest('client/registerCapability', () => null);
    connection.onNotification('textDocument/publishDiagnostics', ({ uri, diagnostics }) => {
      server.#waiting.get(uri)?.(diagnostics);
    });
    connection.listen();
    await connection.sendRequest('initialize', {
      processId: process.pid,
      rootUri: null,
      capabilities: {
        workspace: { configuration: true },
        textDocument: {
          completion: { completionItem: { documentationFormat: ['markdown'], snippetSupport: true } },
          hover: { contentFormat: ['markdown'] },
        },
      },
    });
    await connection.sendNotification('initialized', {});
    return server;
  }

  /** Shows it a file, which need not be there; what it has to say of it. */
  async open(path, text) {
    const uri = pathToFileURL(path).href;
    const diagnostics = new Promise((resolve) => this.#waiting.set(uri, resolve));
    const textDocument = { uri, languageId: 'yaml', version: 1, text };
    await this.#connection.sendNotification('textDocument/didOpen', { textDocument });
    return diagnostics;
  }

  async completions(path, position) {
    const textDocument = { uri: pathToFileURL(path).href };
    return (await this.#connection.sendRequest('textDocument/completion', { textDocument, position })).items;
  }

  async hover(path, position) {
    const textDocument = { uri: pathToFileURL(path).href };
    return (await this.#connection.sendRequest('textDocument/hover', { textDocument, position })).contents.value;
  }

  stop() {
    this.#connection.dispose();
    this.#process.kill();
  }
}
