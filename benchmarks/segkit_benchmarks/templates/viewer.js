"use strict";
// The viewer waits until the page is painted and its place comes near; then NiiVue is unpacked and draws.
{
  const viewer = document.getElementById("viewer-box");
  const status = document.getElementById("viewer-status");
  const scene = JSON.parse(document.getElementById("viewer-scene").textContent);
  const bytes = (id) => Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
  const control = (name) => viewer.querySelector(`[name=${name}]`);
  const layers = ["truth", "prediction", "errors"];
  const axes = ["x", "y", "z"];

  const unpack = async () => {
    const packed = new Blob([bytes("niivue-script")]).stream().pipeThrough(new DecompressionStream("gzip"));
    const code = new Blob([await new Response(packed).arrayBuffer()], { type: "text/javascript" });
    const script = document.createElement("script");
    script.src = URL.createObjectURL(code);
    await new Promise((resolve, reject) => {
      script.onload = resolve;
      script.onerror = () => reject(new Error("the browser refused NiiVue's script"));
      document.head.append(script);
    });
    URL.revokeObjectURL(script.src);
    return window.niivue;
  };

  const colours = (names) => {
    const hex = (from) => [0, ...names.map(([, colour]) => parseInt(colour.slice(from, from + 2), 16))];
    const index = [0, ...names.map((_, at) => at + 1)];
    return { R: hex(1), G: hex(3), B: hex(5), A: index.map((at) => (at ? 255 : 0)), I: index, labels: ["", ...names.map(([name]) => name)] };
  };

  const load = async (nv, NVImage) => {
    for (const [at, id] of ["image", ...layers].entries()) {
      const base64 = document.getElementById(`volume-${id}`).textContent.trim();
      const volume = await NVImage.loadFromBase64({ base64, name: `${id}.nii.gz` });
      if (at) { volume.setColormapLabel(colours(id === "errors" ? [["differs from the truth", scene.error]] : scene.classes)); }
      nv.addVolume(volume);
    }
  };

  // One repaint for whatever changed: 3D is slow where the processor draws it.
  const paint = (nv) => {
    layers.forEach((id, at) => { nv.volumes[at + 1].opacity = control(id).checked ? Number(control("opacity").value) / 100 : 0; });
    const view = viewer.querySelector("[name=view]:checked").value;
    nv.opts.multiplanarShowRender = view === "all" ? 1 : 0;
    nv.opts.multiplanarLayout = view === "all" ? 2 : 0; // two by two; else as it fits
    nv.opts.sliceType = { all: nv.sliceTypeMultiplanar, slices: nv.sliceTypeMultiplanar, axial: nv.sliceTypeAxial, render: nv.sliceTypeRender }[view];
    nv.updateGLVolume();
  };

  const connect = (nv) => {
    for (const field of viewer.querySelectorAll("[type=checkbox], [type=radio], [name=opacity]")) {
      field.addEventListener("input", () => paint(nv));
    }
    const move = () => {
      nv.scene.crosshairPos = axes.map((axis) => Number(control(axis).value) / 1000);
      nv.drawScene();
    };
    for (const axis of axes) { control(axis).addEventListener("input", move); }
    nv.onLocationChange = ({ frac }) => axes.forEach((axis, at) => { control(axis).value = Math.round(1000 * frac[at]); });
    for (const fields of viewer.querySelectorAll("fieldset")) { fields.disabled = false; }
  };

  const open = async () => {
    status.textContent = "Opening the viewer …";
    const { Niivue, NVImage } = await unpack();
    const canvas = document.getElementById("viewer-canvas");
    const nv = new Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.5, show3Dcrosshair: false,
      dragAndDropEnabled: false, isOrientCube: false, isColorbar: false, logLevel: "error", sliceType: 0,
      clipPlaneColor: [0, 0, 0, 0], isClipAllVolumes: true,
    });
    await nv.attachToCanvas(canvas);
    const gl = canvas.getContext("webgl2");
    const info = gl.getExtension("WEBGL_debug_renderer_info");
    const slow = /swiftshader|llvmpipe|software/i.test(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
    await load(nv, NVImage);
    nv.scene.renderAzimuth = 125;
    nv.scene.renderElevation = 18;
    nv.setClipPlane([0.02, 235, -10]); // cut open towards the reader: the outermost label hides all others
    if (slow) { viewer.querySelector("[value=slices]").checked = true; }
    connect(nv);
    paint(nv);
    viewer.classList.add("ready");
    status.textContent = "Drag in a slice to move the crosshair, drag the 3D view to turn it, scroll to change slices." +
      (slow ? " No graphics card was found: 3D is there, and slow." : "");
  };

  const start = () => open().catch((error) => {
    viewer.classList.add("still");
    const reason = String(error.message ?? error).replace(/\.$/, "");
    status.textContent = `The viewer could not be opened here: ${reason}. The picture shows the middle planes.`;
  });

  addEventListener("load", () => {
    const near = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) { near.disconnect(); setTimeout(start, 0); }
    }, { rootMargin: "400px" });
    near.observe(viewer);
  });
}
