package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"imping/daemon"
	"imping/netfast/server"
	"imping/swift/ring"
)

// The guardian is the process that swift-init knows: it keeps root's rights and the listening
// sockets, and a child that serves them as Swift's user. So sockets outlive a child, and a
// new child, of a new program even, takes over without a refused connection while the old
// one ends its requests (rule 30). A child that loses its guardian ends its requests too.
const (
	// childEnv holds the addresses of the sockets that a child got, in order, with commas.
	childEnv = "IMPING_SERVE_SOCKETS"
	// guardEnv is what a guardian leaves to the program that it becomes at SIGUSR1: the pid of the
	// child and the descriptor that keeps it alive, then address=descriptor of each socket.
	guardEnv = "IMPING_SERVE_KEEP"
	// formerEnv is what it leaves besides: the pids of children that were replaced and still end their requests.
	formerEnv = "IMPING_SERVE_FORMER"

	childControl = 3 // ends when the child shall finish
	childReady   = 4 // takes "ready"
	childSockets = 5 // the first of them

	// childPause is waited before a child is replaced that died on its own.
	childPause = time.Second
	// bindPause is between two tries for an address in use.
	bindPause = 100 * time.Millisecond
)

// listen binds an address, waiting so long for one in use: bind_timeout where a server starts.
// Swift: common/wsgi.py, get_socket.
func listen(c *server.Config, address string, wait time.Duration) (net.Listener, error) {
	for end := time.Now().Add(wait); ; time.Sleep(bindPause) {
		l, err := bind(address, c.Backlog)
		if err == nil {
			return l, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(end) {
			if op := (*net.OpError)(nil); errors.As(err, &op) {
				err = op.Err // the address is in the sentence
			}
			return nil, fmt.Errorf("cannot bind to %s: %w", address, err)
		}
	}
}

// bind is net.Listen, but for the backlog, which listen(2) takes when it is called again.
func bind(address string, backlog int) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err == nil {
		_ = raw.Control(func(fd uintptr) { _ = unix.Listen(int(fd), backlog) })
	}
	return l, nil
}

// addressesOf are those to listen on: bind_port, or with servers_per_port each port that a
// ring gives to a device of this node. Swift: common/storage_policy.py, BindPortsCache.
func addressesOf(s *serving) ([]string, error) {
	c := s.conf
	if c.ServersPerPort == 0 {
		return []string{net.JoinHostPort(c.BindIP, strconv.Itoa(c.BindPort))}, nil
	}
	ips, err := ring.LocalIPs(c.RingIP)
	if err != nil {
		return nil, err
	}
	ports := map[int]bool{}
	for _, p := range s.server.Policies() {
		r, err := ring.Load(filepath.Join(c.SwiftDir, p.RingName()+".ring.gz"))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, d := range r.Devs {
			if d != nil && slices.Contains(ips, d.IP) {
				ports[d.Port] = true
			}
		}
	}
	if len(ports) == 0 {
		return nil, fmt.Errorf("no ring in %s has a device of this node (%s): there is no port to serve", c.SwiftDir, c.RingIP)
	}
	var addresses []string
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		addresses = append(addresses, net.JoinHostPort(c.BindIP, strconv.Itoa(port)))
	}
	return addresses, nil
}

// child is a process that serves.
type child struct {
	pid     int
	process *os.Process   // signals go by it: the pid may be another's once the child is gone
	control *os.File      // closed to let it finish
	ended   chan struct{} // closed when it is gone
}

// adopt watches over a child of this process.
func adopt(pid int, control *os.File) *child {
	p, _ := os.FindProcess(pid) // never fails
	c := &child{pid: pid, process: p, control: control, ended: make(chan struct{})}
	go func() {
		defer close(c.ended)
		p.Wait()
	}()
	return c
}

// finish lets the child end its requests and then itself.
func (c *child) finish() { c.control.Close() }

// replaced lets a child finish that another one has taken over from.
func (g *guardian) replaced(old *child) {
	old.finish()
	g.former = append(slices.DeleteFunc(g.former, (*child).gone), old)
}

func (c *child) gone() bool {
	select {
	case <-c.ended:
		return true
	default:
		return false
	}
}

type guardian struct {
	*serving
	program, dir string         // of this process, as it was started
	sockets      map[string]int // descriptors, by address. No os.File: that would make them blocking, for the child too
	addresses    []string       // that are to be served
	behind       bool           // the child serves others
	child        *child
	former       []*child // that were replaced and may still end their requests
	signals      chan os.Signal
}

// guard binds the sockets, starts a child and replaces it when it dies, until a signal ends
// it. SIGTERM ends the child too; after SIGHUP the child ends its requests while this process is
// gone already; at SIGUSR1 this process becomes the program anew, with a new child.
// Swift: common/wsgi.py, run_wsgi.
func guard(s *serving) error {
	g := &guardian{serving: s, sockets: map[string]int{}}
	var err error
	if g.program, err = exec.LookPath(os.Args[0]); err == nil {
		g.program, err = filepath.Abs(g.program)
	}
	if err != nil {
		return err
	}
	if g.dir, err = os.Getwd(); err != nil {
		return err
	}
	old, err := g.inherit()
	if err != nil {
		return err
	}
	if err := g.bindAll(g.conf.BindTimeout); err != nil {
		if old == nil {
			return err
		}
		g.log.Errorf("the server cannot be replaced, it goes on where it was: %v", err)
		g.addresses = slices.Sorted(maps.Keys(g.sockets))
	}
	g.signals = make(chan os.Signal, 8)
	signal.Notify(g.signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	if err := daemon.Detach(); err != nil {
		return err
	}
	switch err := g.start(); {
	case err == nil && old != nil:
		g.replaced(old)
	case err != nil && old == nil:
		return err
	case err != nil:
		g.log.Errorf("the child cannot be replaced, it goes on: %v", err)
		g.child = old
	}
	if err := detachOutput(s.serveOptions); err != nil {
		return err
	}
	daemon.Notify(s.log, "READY=1")
	return g.watch()
}

// watch runs until a signal ends it.
func (g *guardian) watch() error {
	var rings <-chan time.Time
	if g.conf.ServersPerPort > 0 && g.conf.RingCheckInterval > 0 {
		ticker := time.NewTicker(g.conf.RingCheckInterval)
		defer ticker.Stop()
		rings = ticker.C
	}
	for {
		select {
		case <-g.child.ended:
			g.log.Errorf("Removing dead child %d from parent %d", g.child.pid, os.Getpid())
			time.Sleep(childPause)
			if err := g.start(); err != nil {
				g.log.Errorf("%v", err)
			}
		case <-rings:
			if err := g.follow(); err != nil {
				g.log.Errorf("%v", err)
			}
		case sig := <-g.signals:
			switch sig {
			case syscall.SIGUSR1:
				g.log.Noticef("SIGUSR1 received (%d)", os.Getpid())
				g.log.Errorf("cannot be replaced, the old server goes on: %v", g.become()) // else it does not return
				continue
			case syscall.SIGHUP:
				g.log.Noticef("SIGHUP received (%d)", os.Getpid())
				g.child.finish()
			case syscall.SIGINT:
				g.log.Noticef("User quit")
				g.kill()
			default:
				g.log.Noticef("SIGTERM received (%d)", os.Getpid())
				g.kill()
			}
			g.log.Noticef("Exited (%d)", os.Getpid())
			return nil
		}
	}
}

// kill ends the children, those that were replaced and still end their requests too: they are of this process' group, as Detach has
// seen to. Swift: common/wsgi.py, kill_children.
func (g *guardian) kill() {
	if syscall.Getpgrp() == os.Getpid() {
		signal.Ignore(syscall.SIGTERM)
		_ = syscall.Kill(0, syscall.SIGTERM)
	}
	_ = g.child.process.Signal(syscall.SIGTERM)
	<-g.child.ended
}

// bindAll binds what is to be served and not bound yet, waiting so long for each address.
func (g *guardian) bindAll(wait time.Duration) error {
	addresses, err := addressesOf(g.serving)
	if err != nil {
		return err
	}
	for _, address := range addresses {
		if _, ok := g.sockets[address]; ok {
			continue
		}
		l, err := listen(g.conf, address, wait)
		if err != nil {
			return err
		}
		fd, err := duplicate(l)
		l.Close()
		if err != nil {
			return err
		}
		g.sockets[address] = fd
	}
	for address, fd := range g.sockets {
		if !slices.Contains(addresses, address) {
			g.log.Noticef("Closing unnecessary sock for %s", address)
			unix.Close(fd)
			delete(g.sockets, address)
		}
	}
	g.addresses = addresses
	return nil
}

// duplicate gives a descriptor of the socket of a listener.
func duplicate(l net.Listener) (fd int, err error) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return 0, err
	}
	err2 := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, err2)
}

// follow starts a new child when the rings have other ports.
func (g *guardian) follow() error {
	before := g.addresses
	if err := g.bindAll(0); err != nil { // signals wait meanwhile, and the next look is soon
		return err
	}
	if g.behind = g.behind || !slices.Equal(before, g.addresses); !g.behind {
		return nil
	}
	old := g.child
	if err := g.start(); err != nil {
		return err // and tried again
	}
	g.replaced(old)
	return nil
}

// start starts a child and waits until it serves.
func (g *guardian) start() error {
	controlRead, control, err := os.Pipe()
	if err != nil {
		return err
	}
	defer controlRead.Close()
	ready, readyWrite, err := os.Pipe()
	if err != nil {
		control.Close()
		return err
	}
	defer ready.Close()
	files := []uintptr{0, 1, 2, controlRead.Fd(), readyWrite.Fd()}
	for _, address := range g.addresses {
		files = append(files, uintptr(g.sockets[address]))
	}
	pid, err := syscall.ForkExec("/proc/self/exe", os.Args, &syscall.ProcAttr{
		Dir: g.dir, Env: append(os.Environ(), childEnv+"="+strings.Join(g.addresses, ",")), Files: files,
	})
	readyWrite.Close()
	if err != nil {
		control.Close()
		return fmt.Errorf("cannot start a child: %w", err)
	}
	c := adopt(pid, control)
	if err := g.await(ready); err != nil {
		control.Close()
		_ = c.process.Kill()
		<-c.ended
		return err
	}
	g.log.Noticef("Started child %d from parent %d", c.pid, os.Getpid())
	g.child, g.behind = c, false
	return nil
}

// await waits until a child has said that it serves. A signal that ends it all does not wait for that; others do.
func (g *guardian) await(ready io.Reader) error {
	said := make(chan error, 1)
	go func() {
		if word, err := io.ReadAll(ready); err != nil || string(word) != "ready" {
			said <- errors.New("the child did not start normally")
			return
		}
		said <- nil
	}()
	var later []os.Signal
	defer func() {
		for _, sig := range later {
			select {
			case g.signals <- sig:
			default: // so many that one more tells nothing
			}
		}
	}()
	for {
		select {
		case err := <-said:
			return err
		case sig := <-g.signals:
			later = append(later, sig)
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				return errors.New("the child had not started when the server was stopped")
			}
		}
	}
}

// become replaces this process by the program as it is on disk now, which finds the sockets
// and the child in its environment. It returns only when it could not; a conf that is
// wrong is found before.
func (g *guardian) become() error {
	again, err := prepare(&serveOptions{conf: g.serveOptions.conf, swiftConf: g.swiftConf, swiftName: true})
	if err != nil {
		return err
	}
	again.server.Close()
	again.log.Close()
	if again.conf.Workers == 0 && again.conf.ServersPerPort == 0 {
		return errors.New("workers = 0 has no child that could take over the sockets")
	}
	keep := []string{strconv.Itoa(g.child.pid), strconv.Itoa(int(g.child.control.Fd()))}
	fds := []int{int(g.child.control.Fd())}
	for address, fd := range g.sockets {
		keep = append(keep, address+"="+strconv.Itoa(fd))
		fds = append(fds, fd)
	}
	for _, fd := range fds {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
		defer unix.CloseOnExec(fd)
	}
	if err := os.Chdir(g.dir); err != nil {
		return err
	}
	// What is ignored stays so until the new program has its own way with it: another SIGUSR1 would end it before.
	heed, err := ignore(syscall.SIGUSR1)
	if err != nil {
		return err
	}
	defer heed()
	g.log.Infof("Old server PID=%d re'execing as: %q", os.Getpid(), os.Args)
	var former []string
	g.former = slices.DeleteFunc(g.former, (*child).gone)
	for _, c := range g.former {
		former = append(former, strconv.Itoa(c.pid))
	}
	err = syscall.Exec(g.program, os.Args, append(os.Environ(), guardEnv+"="+strings.Join(keep, " "), formerEnv+"="+strings.Join(former, " ")))
	_ = os.Chdir("/")
	return fmt.Errorf("cannot run %s: %w", g.program, err)
}

// ignore has the kernel ignore a signal, until heed. It goes past os/signal, which takes its own handler's mark away before it tells the kernel: a signal
// that comes in between ends the process.
func ignore(sig syscall.Signal) (heed func(), err error) {
	type action struct { // the kernel's, of 64-bit machines
		handler  uintptr
		flags    uint64
		restorer uintptr
		mask     uint64
	}
	set := func(to, was *action) error {
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(to)), uintptr(unsafe.Pointer(was)), unsafe.Sizeof(to.mask), 0, 0)
		if errno != 0 {
			return os.NewSyscallError("rt_sigaction", errno)
		}
		return nil
	}
	const ignored = 1 // SIG_IGN
	var was action
	if err := set(&action{handler: ignored}, &was); err != nil {
		return nil, err
	}
	return func() { _ = set(&was, nil) }, nil
}

// inherit takes what a guardian has left before it became this process; nil, nil where there
// was none.
func (g *guardian) inherit() (*child, error) {
	kept, former := strings.Fields(os.Getenv(guardEnv)), strings.Fields(os.Getenv(formerEnv))
	os.Unsetenv(guardEnv)
	os.Unsetenv(formerEnv)
	if len(kept) < 2 {
		return nil, nil
	}
	var numbers [2]int
	for i := range numbers {
		n, err := strconv.Atoi(kept[i])
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", guardEnv, err)
		}
		numbers[i] = n
	}
	for _, socket := range kept[2:] {
		address, fd, _ := strings.Cut(socket, "=")
		n, err := strconv.Atoi(fd)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", guardEnv, err)
		}
		unix.CloseOnExec(n)
		g.sockets[address] = n
	}
	for _, text := range former {
		pid, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("%s is damaged: %w", formerEnv, err)
		}
		g.former = append(g.former, adopt(pid, nil)) // or nobody would wait for it
	}
	unix.CloseOnExec(numbers[1])
	return adopt(numbers[0], os.NewFile(uintptr(numbers[1]), "control")), nil
}
