package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"imping/codec"
	"imping/daemon"
	"imping/io/diskfile"
	"imping/netfast/server"
	"imping/swift/conf"
	"imping/swift/policy"
	"imping/swift/recon"
	"imping/swift/ring"
)

func checkCommand() *cobra.Command {
	var swiftConf string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check CONF",
		Short: "look at a configuration and all that it names, and start nothing",
		Long: `check looks at what CONF (an object-server.conf, or a folder of *.conf files) says for
the object reconstructor, the object server and the object relinker, and at what it
names: every option, swift.conf, rings, the user, devices and whether they are mounted
and the user's, the recon cache, syslog and statsd. Run it as root, on the node that
CONF is for: only root can look with the user's eyes.

Exit status: 0 if nothing is wrong (WARN is for what need not be), 1 if something is.`,
		Example: `  imping check /etc/swift/object-server.conf
  imping check /etc/swift/object-server/1.conf --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if swiftConf != "" {
				if swiftConf, err = filepath.Abs(swiftConf); err != nil {
					return err
				}
			}
			c := &check{path: path, swiftConf: swiftConf}
			c.all()
			c.print(os.Stdout, asJSON)
			if c.failed() {
				return &exitError{status: exitFailed}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&swiftConf, "swift-conf", "", "swift.conf to read (default /etc/swift/swift.conf)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print the findings as JSON")
	return cmd
}

// Levels of findings.
const (
	levelOK   = "OK"
	levelWarn = "WARN"
	levelFail = "FAIL"
)

// finding is one thing that was looked at.
type finding struct {
	Level string `json:"level"`
	What  string `json:"what"`
	Text  string `json:"text"`
}

// check collects findings.
type check struct {
	path, swiftConf string
	findings        []finding
}

func (c *check) add(level, what, format string, args ...any) {
	f := finding{level, what, fmt.Sprintf(format, args...)}
	if !slices.Contains(c.findings, f) { // several daemons may name the same thing
		c.findings = append(c.findings, f)
	}
}

func (c *check) ok(what, format string, args ...any)   { c.add(levelOK, what, format, args...) }
func (c *check) warn(what, format string, args ...any) { c.add(levelWarn, what, format, args...) }
func (c *check) fail(what, format string, args ...any) { c.add(levelFail, what, format, args...) }

// errors fails with an error that may be of several lines, one for each thing.
func (c *check) errors(what string, err error) {
	for line := range strings.SplitSeq(err.Error(), "\n") {
		c.fail(what, "%s", line)
	}
}

func (c *check) failed() bool {
	return slices.ContainsFunc(c.findings, func(f finding) bool { return f.Level == levelFail })
}

func (c *check) print(w io.Writer, asJSON bool) {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		enc.Encode(c.findings)
		return
	}
	for _, f := range c.findings {
		fmt.Fprintf(w, "%-4s  %s: %s\n", f.Level, f.What, f.Text)
	}
}

// The sections that are looked at, with the options that they may have.
const (
	reconstructorSection = "object-reconstructor"
	serverSection        = "app:object-server"
	relinkerSection      = "object-relinker"
)

func (c *check) all() {
	ini, err := conf.ReadAll(c.path)
	if err != nil {
		c.fail(c.path, "%v", err)
		return
	}
	found := false
	c.defaults(ini)
	for _, section := range []struct {
		name  string
		known []string
		look  func()
	}{
		{reconstructorSection, reconstructorOptions, c.reconstructor},
		{serverSection, serverOptions, c.server},
		{relinkerSection, relinkerOptions, c.relinker},
	} {
		if !ini.HasSection(section.name) {
			continue
		}
		found = true
		c.unknown(section.name, ini.Own(section.name), section.known)
		section.look()
	}
	if !found {
		c.fail(c.path, "none of [%s], [%s] and [%s] is there", reconstructorSection, serverSection, relinkerSection)
	}
}

// defaults looks at the options of [DEFAULT], which is for all daemons.
func (c *check) defaults(ini *conf.INI) {
	all := slices.Concat(reconstructorOptions, serverOptions, relinkerOptions, filterOptions, otherOptions)
	c.unknown("DEFAULT", ini.Own("DEFAULT"), all)
}

// unknown names options that nobody knows: most are misspelt, and do nothing.
func (c *check) unknown(section string, options, known []string) {
	what, good := fmt.Sprintf("[%s]", section), true
	for _, option := range options {
		name := strings.TrimPrefix(option, "set ")
		if name == "use" || name == "here" || slices.Contains(known, name) {
			continue
		}
		good = false
		if meant := nearest(name, known); meant != "" {
			c.warn(what, "no option %s is known and it does nothing: is %s meant?", name, meant)
		} else {
			c.warn(what, "no option %s is known: it does nothing", name)
		}
	}
	if good {
		c.ok(what, "all %d options are known", len(options))
	}
}

// reconstructor looks at [object-reconstructor].
func (c *check) reconstructor() {
	what := fmt.Sprintf("[%s]", reconstructorSection)
	sec, err := conf.Read(c.path, reconstructorSection)
	if err != nil {
		c.errors(what, err)
		return
	}
	cfg, err := passConfig(sec, &reconstructOptions{})
	if err == nil {
		_, err = interval(sec)
	}
	if err != nil {
		c.errors(what, err)
		return
	}
	for _, w := range runPauseWarnings(sec) {
		c.warn(what, "%s", w)
	}
	who := c.process(sec, reconstructorSection, reconstructorSection)
	swift := c.swift(cfg.SwiftDir)
	c.recon(cfg.ReconPath, who)
	if swift == nil {
		return
	}
	local := c.rings(swift, cfg.SwiftDir, c.fail, func(p *policy.Policy) bool { return p.Type == policy.ErasureCoding }, func(d *ring.Device) (bool, error) {
		ips, err := ring.LocalIPs(cfg.RingIP)
		return err == nil && d.IsLocal(ips, cfg.Port), err
	}, who)
	if len(local) == 0 {
		c.warn(what, "no device of an erasure-code ring is this node's (%s): there is nothing to reconstruct. Is it the configuration of the replication server?", where(cfg))
	}
	c.devices(cfg.Devices, cfg.MountCheck, local, who)
}

// server looks at [app:object-server] and its pipeline.
func (c *check) server() {
	what := fmt.Sprintf("[%s]", serverSection)
	sc, err := server.ReadConfig(c.path)
	if err != nil {
		c.errors(what, err)
		return
	}
	for _, w := range sc.Warnings {
		c.warn(what, "%s", w)
	}
	for _, stage := range sc.Pipeline {
		c.unknown("filter:"+stage.Name, onlyOwn(stage.Section), slices.Concat(filterOptions, serverOptions))
	}
	who := c.process(sc.Section, serverSection, "object-server")
	swift := c.swift(sc.SwiftDir)
	if swift == nil {
		return
	}
	if s, err := server.New(sc, swift, nil); err != nil {
		c.errors(what, err)
	} else {
		s.Close()
		c.ok(what, "the pipeline can be served")
	}
	if ip := net.ParseIP(sc.BindIP); ip != nil && !ip.IsUnspecified() {
		if ips, err := ring.LocalIPs("0.0.0.0"); err == nil && !slices.Contains(ips, sc.BindIP) && !ip.IsLoopback() {
			c.fail(what, "bind_ip = %s is no address of this machine", sc.BindIP)
		}
	}
	missing := c.warn // a server that is told its port looks in no ring
	if sc.ServersPerPort > 0 {
		missing = c.fail
	}
	local := c.rings(swift, sc.SwiftDir, missing, func(*policy.Policy) bool { return true }, func(d *ring.Device) (bool, error) {
		ips, err := ring.LocalIPs(sc.RingIP)
		client := slices.Contains(ips, d.IP) && (sc.ServersPerPort > 0 || d.Port == sc.BindPort)
		return err == nil && (client || d.IsLocal(ips, sc.BindPort)), err
	}, who)
	if len(local) == 0 {
		c.warn(what, "no ring has a device of this node at this port: nobody will ask it")
	}
	c.devices(sc.Devices, sc.MountCheck, local, who)
}

// onlyOwn are the options of a stage. Those of [DEFAULT], which are among them, are known anyway.
func onlyOwn(s *conf.Section) []string {
	return slices.DeleteFunc(s.Keys(), func(k string) bool {
		return slices.Contains(otherOptions, k) || slices.Contains(relinkerOptions, k) || slices.Contains(reconstructorOptions, k)
	})
}

// relinker looks at [object-relinker], which is Swift's.
func (c *check) relinker() {
	what := fmt.Sprintf("[%s]", relinkerSection)
	sec, err := conf.Read(c.path, relinkerSection)
	if err == nil {
		_, err = sec.AutoInt("workers", 0)
	}
	if err == nil {
		_, err = sec.NonNegativeFloat("files_per_second", 0)
	}
	if err == nil {
		_, err = sec.Seconds("stats_interval", 0)
	}
	if err == nil {
		_, err = daemon.MasterTexts(sec)
	}
	if err != nil {
		c.errors(what, err)
		return
	}
	var who *account
	if name := sec.Get("user", ""); name != "" { // it has no default (rule 33)
		who = c.user(relinkerSection, name)
	}
	c.recon(sec.Get("recon_cache_path", recon.DefaultPath), who)
}

// process looks at what makes a process a daemon: user, priorities, where it logs to.
func (c *check) process(sec *conf.Section, section, route string) *account {
	what := fmt.Sprintf("[%s]", section)
	log, err := daemon.NewLogger(sec, route, nil)
	if err == nil {
		log.Close()
		var s *daemon.Statsd
		if s, err = daemon.NewStatsd(sec, route); err == nil {
			s.Close()
		}
	}
	if err != nil {
		c.errors(what, err)
	}
	c.receiver(sec, what)
	if _, err := sec.Int("nice_priority", 0); err != nil {
		c.warn(what, "%v; it does nothing", err)
	}
	if _, err := sec.Int("ionice_priority", 0); err != nil {
		c.warn(what, "%v; it does nothing", err)
	}
	if class := sec.Get("ionice_class", ""); class != "" && !slices.Contains([]string{"IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"}, class) {
		c.warn(what, "ionice_class = %s is none of IOPRIO_CLASS_RT, IOPRIO_CLASS_BE and IOPRIO_CLASS_IDLE; it does nothing", class)
	}
	return c.user(section, sec.Get("user", daemon.DefaultUser))
}

// receiver looks for those that a daemon tells things to.
func (c *check) receiver(sec *conf.Section, what string) {
	if sec.Get("log_udp_host", "") == "" {
		address := sec.Get("log_address", "/dev/log")
		if info, err := os.Stat(address); err != nil || info.Mode().Type() != os.ModeSocket {
			c.warn(what, "log_address %s is no socket: the log goes to UDP port 514 of this machine", address)
		} else {
			c.ok(what, "the log goes to %s", address)
		}
	}
	for _, option := range []string{"log_udp_host", "log_statsd_host"} {
		if host := sec.Get(option, ""); host != "" {
			if _, err := net.LookupHost(host); err != nil {
				c.warn(what, "%s = %s: %v", option, host, err)
			} else {
				c.ok(what, "%s = %s can be looked up", option, host)
			}
		}
	}
}

// swift looks at swift.conf; nil: it can not be used.
func (c *check) swift(swiftDir string) *policy.Swift {
	swift, err := swiftConf(c.swiftConf, swiftDir, true)
	if err != nil {
		c.fail("swift.conf", "%v", err)
		return nil
	}
	for _, w := range swift.Warnings {
		c.warn(swift.Path, "%s", w)
	}
	c.ok(swift.Path, "the salts and %d policies are there", len(swift.Policies))
	return swift
}

// rings looks at the rings of those policies and returns the names of this node's devices. missing
// is told of a ring that is not there.
func (c *check) rings(swift *policy.Swift, swiftDir string, missing func(what, format string, args ...any), wanted func(*policy.Policy) bool, isLocal func(*ring.Device) (bool, error), who *account) (local []string) {
	for _, p := range swift.Policies {
		if !wanted(p) {
			continue
		}
		path := filepath.Join(swiftDir, p.RingName()+".ring.gz")
		r, err := ring.Load(path)
		if errors.Is(err, os.ErrNotExist) {
			missing("policy "+p.String(), "%v", err)
			continue
		}
		if err == nil {
			err = p.CheckReplicas(r.Replicas())
		}
		if err != nil {
			c.fail("policy "+p.String(), "%v", err)
			continue
		}
		if p.Type == policy.ErasureCoding {
			if _, err := codec.New(codec.Scheme{Type: p.ECType, K: p.Data, M: p.Parity}); err != nil {
				c.fail("policy "+p.String(), "%v", err)
			}
		}
		if r.NextPartPower >= 0 {
			c.warn(path, "the partition power is being raised: the reconstructor skips policy %s", p.Name)
		}
		n := 0
		for _, d := range r.Devs {
			if d == nil {
				continue
			}
			mine, err := isLocal(d)
			if err != nil {
				c.fail(path, "%v", err)
				return local
			}
			if mine {
				n++
				if !slices.Contains(local, d.Device) {
					local = append(local, d.Device)
				}
			}
		}
		c.ok(path, "policy %s, %d partitions, %v replicas, %d devices of this node", p.Name, r.Partitions(), r.Replicas(), n)
		if !who.may(path, unix.R_OK) {
			c.fail(path, "user %s may not read it", who.Username)
		}
	}
	slices.Sort(local)
	return local
}

// devices looks at this node's devices.
func (c *check) devices(root string, mountCheck bool, names []string, who *account) {
	files := diskfile.NewManager(diskfile.Config{Devices: root, MountCheck: mountCheck, Policy: &policy.Policy{}})
	for _, name := range names {
		path, err := files.DevicePath(name)
		switch {
		case err != nil:
			c.fail("device "+name, "%v", err)
		case !who.may(path, unix.R_OK|unix.W_OK|unix.X_OK):
			c.fail("device "+name, "user %s may not read and write %s", who.Username, path)
		default:
			c.ok("device "+name, "%s is there, and user %s may write to it", path, who.name())
		}
	}
}

// recon looks at the folder of the recon cache.
func (c *check) recon(dir string, who *account) {
	info, err := os.Stat(dir)
	switch {
	case err != nil || !info.IsDir():
		c.warn("recon_cache_path", "%s is no folder: swift-recon will know nothing of passes", dir)
	case !who.may(dir, unix.W_OK|unix.X_OK):
		c.warn("recon_cache_path", "user %s may not write to %s: swift-recon will know nothing of passes", who.Username, dir)
	default:
		c.ok("recon_cache_path", "%s is there", dir)
	}
}

// account is a user with its groups. nil is whoever runs this.
type account struct {
	*user.User
	uid, gid int
	groups   []int
}

func (a *account) name() string {
	if a == nil {
		return "root"
	}
	return a.Username
}

// user looks up whom a daemon becomes; nil: that can not be looked at.
func (c *check) user(section, name string) *account {
	what := fmt.Sprintf("[%s]", section)
	u, err := user.Lookup(name)
	if err != nil {
		c.fail(what, "user = %s: %v", name, err)
		return nil
	}
	a := &account{User: u}
	a.uid, err = strconv.Atoi(u.Uid)
	if err == nil {
		a.gid, err = strconv.Atoi(u.Gid)
	}
	ids, err2 := u.GroupIds()
	if err = errors.Join(err, err2); err != nil {
		c.fail(what, "user = %s: %v", name, err)
		return nil
	}
	for _, id := range ids {
		if gid, err := strconv.Atoi(id); err == nil {
			a.groups = append(a.groups, gid)
		}
	}
	if os.Geteuid() != 0 {
		if a.uid != os.Getuid() {
			c.warn(what, "user = %s: only root can become this user, and look with its eyes", name)
		}
		return nil
	}
	c.ok(what, "user %s is there", name)
	return a
}

// may reports whether the user can use a file so, by the kernel's judgement. It takes the user's
// place in the file system with one thread, which ends with that.
func (a *account) may(path string, how uint32) bool {
	if a == nil {
		return unix.Faccessat(unix.AT_FDCWD, path, how, unix.AT_EACCESS) == nil
	}
	answer := make(chan bool)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		groups := make([]uint32, len(a.groups))
		for i, g := range a.groups {
			groups[i] = uint32(g)
		}
		answer <- setThread(a.uid, a.gid, groups) && unix.Faccessat(unix.AT_FDCWD, path, how, unix.AT_EACCESS) == nil
	}()
	return <-answer
}
