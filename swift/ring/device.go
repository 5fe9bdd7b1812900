package ring

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
)

// Device is one disk of the ring. IP may be an IPv4 or IPv6 address or a host name;
// ReplicationIP and ReplicationPort are never left out: they are IP and Port where the
// file has none. The name in Device is the operator's text, not yet fit to be joined to
// a path. Swift: common/ring/ring.py, Ring._reload.
type Device struct {
	ID, Region, Zone int
	Weight           float64
	IP               string
	Port             int
	ReplicationIP    string
	ReplicationPort  int
	Device, Meta     string
}

// defaultRegion is the region of devices from before there were regions.
const defaultRegion = 1

// parseDevice reads one member of the list "devs": nil for null, a removed device.
// Ring.Devs is indexed by the ids in the rows, thus id must be the place in the list.
func parseDevice(raw json.RawMessage, id int) (*Device, error) {
	if string(raw) == "null" {
		return nil, nil
	}
	o, err := parseObject(raw, "id", "region", "zone", "ip", "port", "replication_ip",
		"replication_port", "weight", "device", "meta")
	if err != nil {
		return nil, fmt.Errorf("device %d: %w", id, err)
	}
	o.require("id", "zone", "ip")
	d := &Device{
		ID:     o.integer("id", 0, math.MinInt, math.MaxInt),
		Region: o.integer("region", defaultRegion, math.MinInt, math.MaxInt),
		Zone:   o.integer("zone", 0, math.MinInt, math.MaxInt),
		Weight: o.number("weight"),
		IP:     o.text("ip", ""),
		Port:   o.integer("port", 0, 0, math.MaxUint16),
		Device: o.text("device", ""),
		Meta:   o.text("meta", ""),
	}
	d.ReplicationIP = o.text("replication_ip", d.IP)
	d.ReplicationPort = o.integer("replication_port", d.Port, 0, math.MaxUint16)
	if o.err == nil && d.ID != id {
		o.err = errors.New("its place in the list is not its id, " + string(o.values["id"]))
	}
	if o.err != nil {
		return nil, fmt.Errorf("device %d: %w", id, o.err)
	}
	return d, nil
}
