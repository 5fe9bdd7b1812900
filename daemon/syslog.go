package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"imping/swift/conf"
)

const (
	syslogPort = 514
	// sendPatience is how long one line may wait for a syslog whose queue is full. Python
	// waits without end; a second is more than a living syslog needs.
	sendPatience = time.Second
	// stalledPatience holds for stalledFor after a line that waited in vain, so that a
	// syslog that hangs can take a tenth of a pass's time at most.
	stalledPatience = time.Millisecond
	stalledFor      = 10 * sendPatience
)

// transport carries packets to syslog. Its methods are not goroutine-safe.
type transport interface {
	send(packet []byte) error
	close()
}

// nothing is the transport of a closed logger.
type nothing struct{}

func (nothing) send([]byte) error { return nil }
func (nothing) close()            {}

// newTransport chooses between UDP to log_udp_host and the socket log_address, and UDP to
// this machine where that is no socket. Swift: common/utils.py, get_logger.
func newTransport(sec *conf.Section) (transport, error) {
	if host := sec.Get("log_udp_host", ""); host != "" {
		port, err := sec.Int("log_udp_port", syslogPort)
		if err != nil {
			return nil, err
		}
		return newUDP(host, port)
	}
	address := sec.Get("log_address", "/dev/log")
	info, err := os.Stat(address)
	switch {
	case err == nil && info.Mode().Type() == fs.ModeSocket:
		s := &unixSocket{address: address}
		s.connect() // a syslog that is not there yet is tried again with each line
		return s, nil
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return newUDP("localhost", syslogPort)
	}
	return nil, fmt.Errorf("cannot log to log_address: %w", err)
}

// udpSocket sends to one address, found at the start. It is not connected, so that a
// syslog that is away answers no line with an error.
type udpSocket struct {
	conn net.PacketConn
	to   net.Addr
}

func newUDP(host string, port int) (transport, error) {
	to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("cannot log to %s port %d: %w", host, port, err)
	}
	conn, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return nil, fmt.Errorf("cannot log to %s port %d: %w", host, port, err)
	}
	return &udpSocket{conn, to}, nil
}

func (s *udpSocket) send(packet []byte) error {
	_, err := s.conn.WriteTo(packet, s.to)
	return err
}

func (s *udpSocket) close() { s.conn.Close() }

// unixSocket sends to a path, in datagrams or, where the other end has none, in a stream.
// Python: logging.handlers, SysLogHandler.
type unixSocket struct {
	address string
	conn    net.Conn  // nil while there is none
	stalled time.Time // when a line last waited in vain for all of sendPatience
}

func (s *unixSocket) connect() error {
	conn, err := net.Dial("unixgram", s.address)
	if errors.Is(err, unix.EPROTOTYPE) {
		conn, err = net.Dial("unix", s.address)
	}
	if err == nil {
		s.conn = conn
	}
	return err
}

func (s *unixSocket) send(packet []byte) error {
	if s.conn != nil {
		err := s.write(packet)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		s.close() // syslog was restarted
	}
	if err := s.connect(); err != nil {
		return err
	}
	return s.write(packet)
}

func (s *unixSocket) write(packet []byte) error {
	patience := sendPatience
	if time.Since(s.stalled) < stalledFor {
		patience = stalledPatience
	}
	s.conn.SetWriteDeadline(time.Now().Add(patience))
	n, err := s.conn.Write(packet)
	if patience == sendPatience && errors.Is(err, os.ErrDeadlineExceeded) {
		s.stalled = time.Now()
	}
	if err != nil && n > 0 {
		s.close() // half a line went into a stream
	}
	return err
}

func (s *unixSocket) close() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}
