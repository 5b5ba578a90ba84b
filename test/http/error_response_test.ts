import assert from "node:assert/strict";
import { test } from "node:test";
import {
  CapsuleError,
  ChatTemplateError,
  SessionBusyError,
  SessionExistsError,
  SessionGoneError,
  SessionLimitError,
  SessionNotFoundError,
  StorageError,
  TokenizerError,
  TurnMismatchError,
  TurnSupersededError,
} from "../../src/errors.ts";
import { describeError } from "../../src/http/error_response.ts";

test("a chat template that fails says so, and is not asked again", () => {
  const error = new ChatTemplateError("the model's chat template took longer than 2000 ms");
  const { status, body, headers } = describeError(error);
  assert.deepEqual([status, body.error.code], [500, "chat_template_failed"]);
  assert.match(body.error.message, /took longer than 2000 ms; send a prompt instead/);
  assert.equal(headers["x-should-retry"], "false");
});

test("a tokenizer that fails says so, and is not asked again", () => {
  const { status, body, headers } = describeError(new TokenizerError("9000 characters took longer than 2360 ms"));
  assert.deepEqual([status, body.error.code], [500, "tokenizer_failed"]);
  assert.match(body.error.message, /^Cannot encode a text with the model's tokenizer: 9000 characters took longer/);
  assert.equal(headers["x-should-retry"], "false");
});

test("what goes wrong with sessions has a status and a code, and is not retried by itself", () => {
  const expected: [Error, number, string][] = [
    [new SessionBusyError("s"), 409, "session_busy"],
    [new SessionExistsError("s"), 409, "session_exists"],
    [new TurnSupersededError("s"), 409, "turn_superseded"],
    [new SessionNotFoundError("s"), 404, "session_not_found"],
    [new SessionGoneError("s", "expired"), 410, "session_expired"],
    [new SessionGoneError("s", "deleted"), 410, "session_deleted"],
    [new SessionGoneError("s", "unreadable", "the file is damaged"), 410, "session_unreadable"],
    [new SessionLimitError("s", 5), 429, "session_limit"],
    [new TurnMismatchError("s", 3, 2), 412, "turn_mismatch"],
    [new CapsuleError("snapshot_corrupt", "x"), 400, "snapshot_corrupt"],
    [new CapsuleError("snapshot_version", "x"), 400, "snapshot_version"],
    [new CapsuleError("snapshot_model_mismatch", "x"), 409, "snapshot_model_mismatch"],
    [new CapsuleError("snapshot_too_large", "x"), 413, "snapshot_too_large"],
    [new StorageError("x"), 507, "storage_failed"],
  ];
  for (const [error, status, code] of expected) {
    const described = describeError(error);
    assert.deepEqual([described.status, described.body.error.code], [status, code]);
    assert.equal(described.headers["x-should-retry"], "false", code);
    assert.equal(described.body.error.message, error.message);
  }
  assert.equal(describeError(new TurnMismatchError("s", 3, 2)).body.error.turn, 3);
  assert.equal(describeError(new SessionLimitError("s", 5)).body.error.limit, 5);
});
