// A member of a chat room in Node: chat_node.js URL MESSAGES PAUSE_MS MESSAGE_BYTES
const [url, messages, pause, size] = process.argv.slice(2);
const room = new WebSocket(url);
let left = Number(messages);
room.onopen = () => {
  const timer = setInterval(() => {
    if (left-- > 0) {
      room.send("and so on ".repeat(Math.ceil(size / 10)).slice(0, size));
    } else {
      clearInterval(timer);
      room.close();
    }
  }, Number(pause));
};
room.onclose = () => process.exit(0);
room.onerror = () => process.exit(1);
