// The same as leak.c in Java, with a thread a connection. Usage: java Leak PORT BACKEND_PORT
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

public class Leak {
  static int backend;
  static final List<Socket> kept = Collections.synchronizedList(new ArrayList<>());

  static int readAll(Socket socket) throws IOException {
    InputStream input = socket.getInputStream();
    byte[] buffer = new byte[512];
    int total = 0, read;
    while ((read = input.read(buffer)) > 0) total += read;
    return total;
  }

  static void handleLeak(Socket socket) throws IOException {
    readAll(socket);
    kept.add(socket);
  }

  static void handleOk(Socket socket) throws IOException {
    readAll(socket);
    socket.close();
  }

  static void fetchLeak() throws IOException {
    Socket socket = new Socket("127.0.0.1", backend);
    readAll(socket);
    kept.add(socket);
  }

  static void fetchOk() throws IOException {
    Socket socket = new Socket("127.0.0.1", backend);
    readAll(socket);
    socket.close();
  }

  static void serve(Socket socket) {
    try {
      int command = socket.getInputStream().read();
      if (command == 'L') {
        handleLeak(socket);
        return;
      }
      if (command == 'C') fetchLeak();
      if (command == 'D') fetchOk();
      handleOk(socket);
    } catch (IOException error) {
      throw new RuntimeException(error);
    }
  }

  public static void main(String[] arguments) throws Exception {
    backend = Integer.parseInt(arguments[1]);
    InetAddress loopback = InetAddress.getByName("127.0.0.1");
    ServerSocket listener = new ServerSocket(Integer.parseInt(arguments[0]), 128, loopback);
    System.out.println("ready");
    for (;;) {
      Socket socket = listener.accept();
      new Thread(() -> serve(socket)).start();
    }
  }
}
