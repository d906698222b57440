// Browsers start no worker for a page from file://. There, search runs in a hidden frame instead.
if (location.protocol === "file:") {
  window.IFrameWorker = window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      this.ready = new Promise(resolve => {
        const start = () => {
          document.body.append(this.frame)
          this.scope = this.frame.contentWindow
          this.scope.postMessage = data =>
            this.dispatchEvent(new MessageEvent("message", { data }))
          this.scope.importScripts = (...urls) =>
            urls.reduce((done, next) => done.then(() => this.load(next)), Promise.resolve())
          resolve(this.load(url))
        }
        document.body ? start() : addEventListener("DOMContentLoaded", start)
      })
    }
    load(url) {
      return new Promise((resolve, reject) => {
        const script = this.frame.contentDocument.createElement("script")
        Object.assign(script, { src: url, onload: resolve, onerror: reject })
        this.frame.contentDocument.body.append(script)
      })
    }
    postMessage(data) {
      this.ready.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })))
    }
    terminate() {
      this.frame.remove()
    }
  }
}
