package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"imping/daemon"
	"imping/netfast/server"
)

// swiftServer is the name under which this program is Swift's object server.
const swiftServer = "swift-object-server"

type serveOptions struct {
	conf      string
	swiftConf string
	ioEngine  string
	verbose   bool
	swiftName bool
}

func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve CONF",
		Short: "serve the objects on this node's devices, as Swift's object server does",
		Long: `serve answers for the objects on this node's devices: to proxies, to replicators and
reconstructors, to whoever speaks to Swift's object server. CONF is its
object-server.conf; docs/operators-guide.md tells which options count. It stays in
the foreground; under the name swift-object-server it is the daemon.

SIGTERM stops it, SIGHUP lets requests under way end first.`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			o.conf = args[0]
			return serve(&o)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&o.verbose, "verbose", "v", false, "log to standard error too")
	f.StringVar(&o.ioEngine, "io-engine", "", "plain, uring or auto: how files are written (default auto, which is plain; imping_io_engine in CONF)")
	f.StringVar(&o.swiftConf, "swift-conf", "", "swift.conf to read (default /etc/swift/swift.conf)")
	return cmd
}

// asServer runs under the name swift-object-server, with that program's words and messages.
func asServer(argv []string) int {
	args, err := daemon.ParseServerArgs(argv)
	var usage *daemon.ArgsError
	if errors.As(err, &usage) {
		usage.Exit()
	} else if err != nil {
		fmt.Println(err)
		return exitFailed
	}
	o := serveOptions{conf: args.Conf, verbose: args.Verbose, swiftName: true}
	if err := serve(&o); err != nil {
		fmt.Println(err) // swift-init shows it
		return exitFailed
	}
	return exitDone
}

// serving is a server's configuration, read and found good.
type serving struct {
	*serveOptions
	conf   *server.Config
	server *server.Server
	log    *daemon.Logger
}

// prepare reads all that a server needs.
func prepare(o *serveOptions) (*serving, error) {
	path, err := filepath.Abs(o.conf)
	if err != nil {
		return nil, err
	}
	c, err := server.ReadConfig(path)
	if err != nil {
		return nil, err
	}
	if o.ioEngine != "" {
		c.IOEngine = o.ioEngine
	}
	if o.swiftConf != "" {
		if o.swiftConf, err = filepath.Abs(o.swiftConf); err != nil {
			return nil, err
		}
	}
	swift, err := swiftConf(o.swiftConf, c.SwiftDir, o.swiftName)
	if err != nil {
		return nil, err
	}
	var console io.Writer
	if o.verbose {
		console = os.Stderr
	}
	log, err := daemon.NewLogger(c.Section, "object-server", console)
	if err != nil {
		return nil, err
	}
	s, err := server.New(c, swift, log)
	if err != nil {
		log.Close()
		return nil, err
	}
	c.Warnings = append(c.Warnings, swift.Warnings...)
	return &serving{serveOptions: o, conf: c, server: s, log: log}, nil
}

// serve runs a server until a signal ends it: under Swift's name, and with workers, as a
// child of this process that keeps its sockets.
func serve(o *serveOptions) error {
	if child := os.Getenv(childEnv); child != "" && o.swiftName {
		return serveAsChild(o, child)
	}
	s, err := prepare(o)
	if err != nil {
		return err
	}
	defer s.log.Close()
	for _, warning := range s.conf.Warnings {
		s.log.Warnf("%s", warning)
	}
	daemon.RaiseLimits()
	daemon.SetPriority(s.conf.Section, s.log)
	if o.swiftName && (s.conf.Workers > 0 || s.conf.ServersPerPort > 0) {
		return guard(s)
	}
	addresses, err := addressesOf(s)
	if err != nil {
		return err
	}
	var listeners []net.Listener
	for _, address := range addresses {
		l, err := listen(s.conf, address, s.conf.BindTimeout)
		if err != nil {
			return err
		}
		listeners = append(listeners, l)
	}
	if o.swiftName {
		if err := daemon.Detach(); err != nil {
			return err
		}
	}
	return s.run(listeners, nil, func() error {
		if !o.swiftName {
			var at []string
			for _, l := range listeners {
				at = append(at, l.Addr().String())
			}
			where := "the log goes to syslog, with -v here too"
			if o.verbose {
				where = "the log goes to syslog, and here"
			}
			fmt.Fprintf(os.Stderr, "imping: serving on %s; %s\n", strings.Join(at, ", "), where)
			return nil
		}
		daemon.Notify(s.log, "READY=1")
		return detachOutput(o)
	})
}

func detachOutput(o *serveOptions) error {
	if o.verbose {
		return daemon.DetachOutput(os.Stderr)
	}
	return daemon.DetachOutput()
}

// run becomes Swift's user and serves the listeners: until SIGTERM, which ends all at once, or
// until SIGHUP or the end of control, which let requests under way end first (rule 30).
func (s *serving) run(listeners []net.Listener, control io.Reader, ready func() error) error {
	// Requests leave some 10 KiB behind each and little lives on: at Go's 100 % the heap would be swept for each 400 of them.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400)
	}
	syscall.Umask(0o022)
	if err := daemon.DropPrivileges(s.conf.Section.Get("user", daemon.DefaultUser)); err != nil {
		return fmt.Errorf("%s [%s] user: %w", s.conf.Path, s.conf.Section.Name, err)
	}
	if s.conf.ServersPerPort == 0 { // without workers Swift's one process has one, too
		runtime.GOMAXPROCS(min(max(1, s.conf.Workers), runtime.GOMAXPROCS(0)))
	}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1)
	defer signal.Stop(signals)
	if control != nil {
		go func() {
			io.Copy(io.Discard, control)
			signals <- syscall.SIGHUP
		}()
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { failed <- s.server.Serve(l) }()
	}
	defer s.close()
	if err := ready(); err != nil {
		return err
	}
	var stop os.Signal
	select {
	case err := <-failed:
		if err != nil {
			s.log.Errorf("%v", err)
			return err
		}
		return nil
	case stop = <-signals:
	}
	if stop == syscall.SIGTERM || stop == syscall.SIGINT {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.conf.StaleWorkerTimeout)
	defer cancel()
	go func() {
		// A second word ends it at once, another polite one does not.
		for sig := range signals {
			if sig == syscall.SIGTERM || sig == syscall.SIGINT {
				cancel()
				return
			}
		}
	}()
	if err := s.server.Finish(ctx); err != nil {
		s.log.Noticef("Child %d ends %s", os.Getpid(), "with requests under way")
		return nil
	}
	s.log.Noticef("Child %d exiting normally", os.Getpid())
	return nil
}

// closeTime is how long the end of a server waits for what can not be interrupted: a disk, a lock that another process holds. Files are
// whole whenever a process ends, and swift-init gives up after 15 s.
const closeTime = 5 * time.Second

func (s *serving) close() {
	closed := make(chan struct{})
	go func() { s.server.Close(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(closeTime):
		s.log.Noticef("Child %d ends %s", os.Getpid(), "with requests under way")
	}
}

// serveAsChild serves sockets that the guardian holds, and ends with it.
func serveAsChild(o *serveOptions, addresses string) error {
	os.Unsetenv(childEnv)
	control, ready := os.NewFile(childControl, "control"), os.NewFile(childReady, "ready")
	var listeners []net.Listener
	for i := range strings.Split(addresses, ",") {
		f := os.NewFile(uintptr(childSockets+i), "socket")
		l, err := net.FileListener(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("cannot take over a socket: %w", err)
		}
		listeners = append(listeners, l)
	}
	s, err := prepare(o)
	if err != nil {
		return err
	}
	defer s.log.Close()
	return s.run(listeners, control, func() error {
		if err := detachOutput(o); err != nil {
			return err
		}
		_, err := io.WriteString(ready, "ready")
		ready.Close()
		return err
	})
}
