// The same as leak.c in Node: a socket that is allowed to stay half open and is never ended stays in
// CLOSE_WAIT. Usage: node leak.js PORT BACKEND_PORT
const net = require('net');
const [port, backend] = process.argv.slice(2).map(Number);
const kept = [];

function handleLeak(socket) {
  socket.on('data', () => {});
  socket.on('end', () => kept.push(socket));
}

function handleOk(socket) {
  socket.on('data', () => {});
  socket.on('end', () => socket.end());
}

function fetch(handle) {
  const socket = net.connect({ port: backend, host: '127.0.0.1', allowHalfOpen: true });
  handle(socket);
}

function serve(socket) {
  socket.on('error', () => {});
  socket.once('data', (data) => {
    const command = String.fromCharCode(data[0]);
    if (command === 'L') return handleLeak(socket);
    if (command === 'C') fetch(handleLeak);
    if (command === 'D') fetch(handleOk);
    handleOk(socket);
  });
}

const server = net.createServer({ allowHalfOpen: true }, serve);
server.listen(port, '127.0.0.1', () => console.log('ready'));
