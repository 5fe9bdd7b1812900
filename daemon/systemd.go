package daemon

import (
	"context"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Notify tells systemd of a state, where systemd has started this process and waits for it.
// Swift: common/utils.py, systemd_notify.
func Notify(log *Logger, state string) {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return
	}
	if rest, abstract := strings.CutPrefix(address, "@"); abstract {
		address = "\x00" + rest
	}
	conn, err := net.Dial("unixgram", address)
	if err == nil {
		conn.SetWriteDeadline(time.Now().Add(time.Second)) // systemd may be busy; a daemon is not to wait for it
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		log.Debugf("Systemd notification failed: %v", err)
	}
}

// Watchdog tells systemd until ctx ends that the process is well, as long as well says so:
// twice in the time that the unit's WatchdogSec gives. Without that it returns at once. A
// process that systemd hears nothing of is killed and started anew.
func Watchdog(ctx context.Context, log *Logger, well func() bool) {
	interval := watchdogInterval()
	if interval == 0 {
		return
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if well() {
			Notify(log, "WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// watchdogInterval is half of what systemd waits; 0: it does not (sd_watchdog_enabled(3)).
func watchdogInterval() time.Duration {
	if pid := os.Getenv("WATCHDOG_PID"); pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return 0
	}
	us, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || us < 2 {
		return 0
	}
	return time.Duration(us) * time.Microsecond / 2
}
