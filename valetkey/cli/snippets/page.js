"use strict";
(() => {
  const grant = JSON.parse(document.getElementById("grant").textContent);
  const form = document.forms[0];
  const input = form.querySelector("input[type=file]");
  const send = form.querySelector(".send");
  const find = (selector) => document.querySelector(selector);
  const drop = find(".drop"), nameLine = find(".name"), hint = find(".hint");
  const typeLine = find(".type"), cancel = find(".cancel"), progress = find(".progress");
  const bar = find("progress"), rate = find(".rate"), spoken = find(".quiet"), notice = find("#notice");
  const expiresAt = Date.parse(grant.expires_at);
  const NEW_PAGE = "Ask whoever gave you this page for a new one.";
  const MIB = 1024 * 1024;
  let request = null, isFinished = false;

  // ---- words

  function size(bytes) {
    const number = (value) => value.toLocaleString(undefined, { maximumFractionDigits: 1 });
    if (bytes < 1024) return bytes === 1 ? "1 byte" : `${bytes} bytes`;
    if (bytes < MIB) return `${number(bytes / 1024)} KiB`;
    return bytes < 1024 * MIB ? `${number(bytes / MIB)} MiB` : `${number(bytes / 1024 / MIB)} GiB`;
  }

  // Two sizes that look the same are distinguished by their bytes.
  function sizes(first, second) {
    const exact = size(first) === size(second) && first >= 1024;
    return [first, second].map((n) => (exact ? `${n.toLocaleString()} bytes` : size(n)));
  }

  function duration(seconds) {
    const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
    const [unit, length] = units.find(([, length]) => seconds >= length) ?? units[3];
    const count = Math.max(Math.floor(seconds / length), 1);
    return `${count} ${unit}${count === 1 ? "" : "s"}`;
  }

  // A name may contain characters that reverse or hide the text around them.
  function printable(name) {
    return name.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd");
  }

  // ---- what the page shows

  function show(kind, text, detail = "") {
    notice.className = `notice ${kind}`;
    notice.hidden = false;
    // A text that changes while the element is visible is read out.
    notice.children[0].textContent = text;
    notice.children[1].textContent = detail;
  }

  function say(kind, text, detail) {
    show(kind, text, detail);
    notice.focus();
  }

  function refresh() {
    send.disabled = isFinished || request !== null || isExpired() || !input.files.length || problem();
    input.disabled = isFinished || request !== null || isExpired();
  }

  const isExpired = () => Date.now() >= expiresAt;

  function tick() {
    const left = Math.floor((expiresAt - Date.now()) / 1000);
    find("#countdown").textContent = left > 0 ? `${duration(left)} left` : "This time has passed";
    if (left <= 0 && request === null && !isFinished) {
      isFinished = drop.hidden = true;
      refresh();
      say("bad", "This page has expired.", `Nothing can be uploaded with it any more. ${NEW_PAGE}`);
    } else if (left > 0) {
      setTimeout(tick, left > 120 ? 10000 : 500);
    }
  }

  // ---- the chosen file

  // What storage would refuse. It checks the size; it checks the type only if the client names it.
  function problem() {
    const file = input.files[0];
    const { min_size: min, max_size: max, type_prefix: prefix } = grant;
    if (max !== null && file.size > max) {
      const [actual, limit] = sizes(file.size, max);
      return `This file is too large: it has ${actual}, and at most ${limit} are allowed.`;
    }
    if (file.size === 0 && min > 0) return "This file is empty.";
    if (file.size < min) {
      const [actual, limit] = sizes(file.size, min);
      return `This file is too small: it has ${actual}, and at least ${limit} are needed.`;
    }
    if (prefix !== null && file.type && !file.type.startsWith(prefix)) {
      return `This file has the wrong type: it is ${file.type}, and only ${prefix}* is allowed.`;
    }
    return "";
  }

  function doubt() {
    const file = input.files[0];
    if (file.size === 0 && grant.max_size !== 0) return "This file is empty. You can upload it nevertheless.";
    const type = grant.content_type;
    if (type !== null && type !== "application/octet-stream" && file.type && file.type !== type) {
      return `This file seems to be ${file.type}, but ${type} is expected. You can upload it nevertheless.`;
    }
    return "";
  }

  function choose() {
    const file = input.files[0];
    notice.hidden = true;
    if (!file) {
      nameLine.textContent = "Choose a file";
      hint.textContent = "or drop it here";
    } else {
      nameLine.textContent = printable(file.name);
      hint.textContent = `${size(file.size)} · choose another`;
      const text = problem() || doubt();
      if (text) show(problem() ? "bad" : "warn", text);
      if (typeLine) {
        const known = file.type.startsWith(grant.type_prefix);
        form.elements["Content-Type"].value = known ? file.type : grant.type_prefix;
        typeLine.hidden = known || Boolean(problem());
        if (!typeLine.hidden) show("warn", "This browser does not know the type of the file.", "Name it above.");
      }
    }
    refresh();
  }

  function listenForDrops() {
    for (const name of ["dragenter", "dragover"]) {
      document.addEventListener(name, (event) => {
        event.preventDefault(); // else a file that misses the field replaces the page
        drop.classList.toggle("over", !input.disabled);
      });
    }
    for (const name of ["dragleave", "drop"]) {
      document.addEventListener(name, (event) => {
        event.preventDefault();
        drop.classList.remove("over");
      });
    }
    document.addEventListener("drop", (event) => {
      const { files } = event.dataTransfer;
      if (input.disabled || !files.length) return;
      if (files.length > 1) return say("bad", "This page takes one file: drop one only.");
      input.files = files;
      choose();
    });
  }

  // ---- storage's answers

  const REFUSALS = {
    EntityTooLarge: "The file is larger than storage accepts here.",
    EntityTooSmall: "The file is smaller than storage accepts here.",
    InvalidPolicyDocument: "Storage does not accept this form: the page may have been changed.",
    SignatureDoesNotMatch: "Storage does not accept this form: the page was changed, or its key was replaced.",
    InvalidAccessKeyId: "Storage does not know the key of this page any more.",
    ExpiredToken: "This page has expired, although its time has not passed.",
    RequestTimeTooSkewed: "Storage takes this page for too old or too new: a clock is wrong.",
    NoSuchBucket: "The place where the file belongs does not exist any more.",
    AccessControlListNotSupported: "Storage does not support the access rules of this form.",
    BadDigest: "This is another file than the one that was announced: its checksum differs.",
    XAmzContentChecksumMismatch: "This is another file than the one that was announced: its checksum differs.",
    PreconditionFailed: "There is a file of this name already, and this page may not replace it.",
    QuotaExceeded: "Storage is full.",
  };
  REFUSALS.InvalidToken = REFUSALS.ExpiredToken;
  REFUSALS.XAmzContentSHA256Mismatch = REFUSALS.BadDigest;
  const EXPIRED = "This page expired before storage received the file.";
  const DENIED = "Storage does not allow this upload: the file or the form is not what was granted.";
  const BUSY = "Storage cannot take the file at the moment. Try again in a minute.";
  const NO_REASON = "Storage refused the file, and gave no reason that is known here.";

  function explain(status, body) {
    const answer = new DOMParser().parseFromString(body, "text/xml");
    const code = answer.querySelector("Error > Code")?.textContent ?? "";
    const message = answer.querySelector("Error > Message")?.textContent ?? "";
    const isDenied = code === "AccessDenied" || code === "";
    let text = REFUSALS[code];
    if (status >= 500 || status === 429 || code === "SlowDown") text = BUSY;
    else if (status === 413) text ??= REFUSALS.EntityTooLarge;
    else if (status === 412) text ??= REFUSALS.PreconditionFailed;
    else if (isDenied && status === 403) text = /expired/i.test(message) || isExpired() ? EXPIRED : DENIED;
    else if (/checksum|digest/i.test(message)) text ??= REFUSALS.BadDigest;
    const again = text === BUSY || /^(Entity|BadDigest|XAmz)/.test(code) ? "" : ` ${NEW_PAGE}`;
    // Only the code: storage's message may quote the form and its signature.
    const name = /^[A-Za-z0-9.]{1,64}$/.test(code) ? `${code}, ` : "";
    return [text ?? NO_REASON, `The file is not stored.${again} (Storage said: ${name}status ${status})`];
  }

  // ---- sending

  function body() {
    return grant.method === "POST" ? new FormData(form) : input.files[0].slice(); // a slice has no type
  }

  function start() {
    const file = input.files[0], began = Date.now();
    const data = body(); // a disabled input is no part of a form's data
    let isComplete = false, quarter = 0, wasHeard = false;
    request = new XMLHttpRequest();
    request.upload.addEventListener("progress", ({ loaded, total }) => {
      wasHeard = true;
      isComplete = loaded === total;
      const share = total ? loaded / total : 1, seconds = (Date.now() - began) / 1000;
      const left = seconds > 2 && share > 0 ? ` · ${duration((seconds / share) * (1 - share))} left` : "";
      bar.value = share;
      bar.textContent = `${Math.floor(share * 100)} %`;
      rate.textContent = isComplete ? "Sent: waiting for storage" : `${Math.floor(share * 100)} % of ${size(total)}${left}`;
      if (Math.floor(share * 4) > quarter) {
        quarter = Math.floor(share * 4);
        spoken.textContent = quarter < 4 ? `${quarter * 25} percent sent` : "Sent. Waiting for storage";
      }
    });
    request.addEventListener("load", () => {
      const { status, responseText } = request;
      finish();
      if (status >= 200 && status < 300) stored(file);
      else say("bad", ...explain(status, responseText));
    });
    request.addEventListener("error", () => {
      finish();
      if (wasHeard) {
        say("bad", "The connection broke before storage answered.",
          "It is not known whether the file is stored. You can upload it again: that does no harm.");
      } else {
        sendUnheard(data, file);
      }
    });
    request.addEventListener("abort", () => {
      finish();
      show("warn", "Cancelled.", isComplete
        ? "The whole file was sent before: storage may have stored it." : "The file is not stored.");
      input.focus();
    });
    request.open(grant.method, grant.url);
    for (const [name, value] of grant.headers) request.setRequestHeader(name, value);
    request.send(data);
    showProgress();
  }

  function showProgress() {
    notice.hidden = true;
    bar.value = 0;
    rate.textContent = spoken.textContent = "Uploading";
    progress.hidden = cancel.hidden = false;
    refresh();
    cancel.focus();
  }

  function finish() {
    request = null;
    progress.hidden = cancel.hidden = true;
    refresh();
  }

  function stored(file) {
    isFinished = true;
    refresh();
    find(".buttons").hidden = drop.hidden = true;
    if (typeLine) typeLine.hidden = true;
    say("good", "Stored.", `${printable(file.name)}, ${size(file.size)}. You can close this page.`);
  }

  // Without CORS rules of the bucket, a page may send a form, but not read the answer, nor see the
  // progress. A PUT is not sent at all.
  async function sendUnheard(data, file) {
    const unreachable = ["Storage cannot be reached.", "Check the connection, and try again."];
    if (grant.method !== "POST") {
      return say("bad", unreachable[0], `${unreachable[1]} Or storage does not let web pages upload here: ` +
        "its bucket then needs CORS rules. The file is not stored.");
    }
    const stop = new AbortController();
    request = { abort: () => stop.abort() };
    showProgress();
    bar.removeAttribute("value");
    rate.textContent = "Uploading. Storage does not let this page see how far it is";
    try {
      await fetch(grant.url, { method: "POST", mode: "no-cors", body: data, signal: stop.signal });
      finish();
      say("warn", "Sent, and storage has answered, but does not let this page read the answer.",
        `${printable(file.name)}, ${size(file.size)}, was within the limits and is probably stored. ` +
        "To be sure, upload it again as a plain form: if storage refuses it, its own words appear below.");
      offerPlainForm();
    } catch (error) {
      finish();
      if (error.name === "AbortError") say("warn", "Cancelled.", "It is not known how much was sent: storage may have stored it.");
      else say("bad", unreachable[0], `${unreachable[1]} The file is not stored.`);
    }
  }

  function offerPlainForm() {
    if (find(".answer")) return;
    const button = document.createElement("button"), frame = document.createElement("iframe");
    button.type = "button";
    button.className = "plain answer";
    button.textContent = "Upload again as a plain form";
    frame.name = "storage";
    frame.title = "Storage's answer";
    frame.hidden = true;
    button.addEventListener("click", () => {
      form.target = frame.name;
      frame.hidden = false;
      form.submit();
      say("warn", "Uploading as a plain form.", "Storage's answer appears below. If it stays empty, the file is stored.");
    });
    find(".buttons").append(button);
    form.after(frame);
  }

  form.addEventListener("submit", (event) => {
    if (isExpired() || isFinished || request !== null || !input.files.length || problem()) {
      event.preventDefault();
      return;
    }
    // Storage redirects the browser to another page, which this page could not read.
    if (grant.redirects) {
      progress.hidden = false;
      bar.removeAttribute("value");
      rate.textContent = spoken.textContent = "Uploading. Another page opens when the file is stored";
      setTimeout(() => { send.disabled = true; });
      return;
    }
    event.preventDefault();
    start();
  });
  input.addEventListener("change", choose);
  cancel.addEventListener("click", () => request?.abort());
  window.addEventListener("beforeunload", (event) => {
    if (request !== null) event.preventDefault();
  });
  // A page that the browser restores from its history begins anew.
  window.addEventListener("pageshow", () => { progress.hidden = true; refresh(); });

  document.documentElement.classList.add("scripted");
  find("#expiry").textContent = new Date(expiresAt).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
  if (typeLine) typeLine.hidden = true;
  listenForDrops();
  choose();
  tick();
})();
