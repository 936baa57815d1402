// Plays a recording: a button, a slider of seconds, a choice of speeds. What the user does goes to the kernel, which alone knows the time.

const SEND_EVERY_MS = 100;
const HAND_MS = 700; // as long after the last move, the slider is the user's: what the kernel says of the time is older

function made(kind, name, label) {
  const element = document.createElement(kind);
  element.className = name;
  if (label) element.setAttribute("aria-label", label);
  return element;
}

function render({ model, el }) {
  const play = made("button", "jupyter-button widget-button troupelab-play");
  const slider = made("input", "troupelab-time", "time in the recording, in seconds");
  const told = made("span", "troupelab-told");
  const step = made("span", "troupelab-told");
  const speed = made("select", "troupelab-speed", "speed");
  play.type = "button";
  slider.type = "range";
  slider.min = 0;
  for (const each of model.get("speeds")) speed.add(new Option(`${each}×`, each));
  el.append(play, slider, told, step, speed);

  let moved = -Infinity;
  let due = 0;
  const tell = (kind, value) => model.send({ kind, value });

  function write() {
    const playing = model.get("playing");
    play.textContent = playing ? "❚❚ pause" : "▶ play";
    told.textContent = model.get("told");
    step.textContent = model.get("step");
    if (document.activeElement !== speed) speed.value = model.get("speed");
    if (performance.now() - moved < HAND_MS) return;
    const notch = model.get("notch_s");
    slider.step = notch;
    slider.max = Math.ceil(model.get("length_s") / notch) * notch; // the kernel stops at the end
    slider.value = model.get("at_s");
    slider.setAttribute("aria-valuetext", `${model.get("told")}, ${model.get("step")}`);
  }

  play.addEventListener("click", () => tell(model.get("playing") ? "pause" : "play"));
  speed.addEventListener("change", () => tell("speed", Number(speed.value)));
  slider.addEventListener("input", () => {
    moved = performance.now();
    due ||= setTimeout(() => {
      due = 0;
      tell("seek", Number(slider.value));
    }, SEND_EVERY_MS);
  });
  model.on("change", write);
  write();
  return () => {
    clearTimeout(due);
    model.off("change", write);
  };
}

export default { render };
