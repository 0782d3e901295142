/**
 * Check that a request is from the data share's webhook: docs/alerts.md.
 *
 * One file to copy into a backend; it needs Node.js 20 and no packages.
 */
import { createHmac, timingSafeEqual } from "node:crypto";

/** headers: with names in lower case, as Node.js gives them. body: the Buffer as it was received. */
export function isGenuine(headers, body, secret) {
  const { "webhook-id": id, "webhook-timestamp": time, "webhook-signature": signatures } = headers;
  // Number(undefined) is NaN, which is not within five minutes either.
  if (!id || !signatures || !(Math.abs(Date.now() / 1000 - Number(time)) <= 300)) return false;
  const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
  const signed = Buffer.concat([Buffer.from(`${id}.${time}.`), body]);
  const expected = Buffer.from("v1," + createHmac("sha256", key).update(signed).digest("base64"));
  const given = signatures.split(" ").map((one) => Buffer.from(one));
  return given.some((one) => one.length === expected.length && timingSafeEqual(one, expected));
}
