package main

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tidewire/tidewire/broker"
)

// metricsHandler serves the broker's metrics, and those of the Go runtime and the
// process, in the formats of Prometheus.
func metricsHandler(b *broker.Broker) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		newCollector(b),
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// metric is one number of broker.Stats.
type metric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(broker.Stats) float64
}

func newMetrics() []metric {
	gauge := func(name, help string, value func(broker.Stats) int64) metric {
		return metric{
			prometheus.NewDesc("tidewire_"+name, help, nil, nil), prometheus.GaugeValue,
			func(s broker.Stats) float64 { return float64(value(s)) },
		}
	}
	counter := func(name, help string, value func(broker.Stats) uint64) metric {
		return metric{
			prometheus.NewDesc("tidewire_"+name+"_total", help, nil, nil), prometheus.CounterValue,
			func(s broker.Stats) float64 { return float64(value(s)) },
		}
	}
	return []metric{
		gauge("sessions", "Sessions that have been welcomed and have not ended.", func(s broker.Stats) int64 { return s.Sessions }),
		gauge("subscriptions", "Subscriptions of all sessions.", func(s broker.Stats) int64 { return s.Subscriptions }),
		gauge("publications", "Publication streams of all sessions.", func(s broker.Stats) int64 { return s.Publications }),
		gauge("topics", "Topics that are kept.", func(s broker.Stats) int64 { return s.Topics }),
		gauge("presences", "Presences of sessions in topics, those that a lost connection leaves for a grace too.", func(s broker.Stats) int64 { return s.Presences }),
		gauge("requests", "Requests that wait for replies.", func(s broker.Stats) int64 { return s.Requests }),
		gauge("groups", "Groups that have members at this broker.", func(s broker.Stats) int64 { return s.Groups }),
		gauge("slow_subscriptions", "Subscriptions that lag: more is meant for them than their queues hold.", func(s broker.Stats) int64 { return s.SlowSubscriptions }),
		gauge("history_bytes", "Bytes that histories and last values take.", func(s broker.Stats) int64 { return s.HistoryBytes }),
		gauge("queued_bytes", "Bytes of frames that wait for subscriptions, each frame counted once a subscription.", func(s broker.Stats) int64 { return s.QueuedBytes }),

		counter("sessions_welcomed", "Sessions that have been welcomed.", func(s broker.Stats) uint64 { return s.SessionsTotal }),
		counter("sessions_refused", "Sessions that ended before they were welcomed: refused, timed out or lost.", func(s broker.Stats) uint64 { return s.SessionsRefused }),
		counter("messages_published", "Messages that were given their place in a topic.", func(s broker.Stats) uint64 { return s.Published }),
		counter("messages_published_bytes", "Bytes of payload of published messages.", func(s broker.Stats) uint64 { return s.PublishedBytes }),
		counter("messages_rejected", "Messages of clients that were refused, with a coded error.", func(s broker.Stats) uint64 { return s.Rejected }),
		counter("messages_duplicate", "Messages that were published again and had their place already.", func(s broker.Stats) uint64 { return s.Duplicates }),
		counter("messages_delivered", "Messages handed to streams and datagrams, each counted once a subscription or datagram.", func(s broker.Stats) uint64 { return s.Delivered }),
		counter("values_evicted", "Last values that were dropped to keep a bound.", func(s broker.Stats) uint64 { return s.ValuesEvicted }),
		counter("messages_delivered_bytes", "Bytes of frames of delivered messages.", func(s broker.Stats) uint64 { return s.DeliveredBytes }),
	}
}

func droppedDesc() *prometheus.Desc {
	return prometheus.NewDesc("tidewire_messages_dropped_total",
		"Messages that were not delivered, each under one reason. "+
			"overflow: the queue of a subscription was full. "+
			"budget: the queues of all subscriptions together were full. "+
			"conflated: a newer message took its place. "+
			"datagram: the transport did not take a datagram. "+
			"ended: the subscription ended before. "+
			"bad_datagram: a client's datagram was no message that it may publish. "+
			"rate_limited: a client's datagram was above its rate. "+
			"expired: its time to live was over. "+
			"history: a subscription was to begin with it, and it was not kept any more. "+
			"priority: its room was given to a subscription of higher priority. "+
			"reply: a reply came too late, or to no request. "+
			"no_member: nobody of a group could take it.",
		[]string{"reason"}, nil)
}

func gapsDesc() *prometheus.Desc {
	return prometheus.NewDesc("tidewire_gaps_total", "Gaps told to subscribers, by what had happened.", []string{"reason"}, nil)
}

func rttDesc() *prometheus.Desc {
	return prometheus.NewDesc("tidewire_rtt_seconds", "Round trips to the clients, of a sample of the sessions, as they are now.", []string{"quantile"}, nil)
}

func lossDesc() *prometheus.Desc {
	return prometheus.NewDesc("tidewire_packet_loss_ratio", "Packets to the clients that were lost, of those sent: of a sample of the sessions, since each began.", nil, nil)
}

// collector reads broker.Stats for each scrape. It is immutable.
type collector struct {
	broker                   *broker.Broker
	metrics                  []metric
	dropped, gaps, rtt, loss *prometheus.Desc
}

func newCollector(b *broker.Broker) *collector {
	return &collector{broker: b, metrics: newMetrics(), dropped: droppedDesc(), gaps: gapsDesc(), rtt: rttDesc(), loss: lossDesc()}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		descs <- m.desc
	}
	for _, d := range []*prometheus.Desc{c.dropped, c.gaps, c.rtt, c.loss} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(metrics chan<- prometheus.Metric) {
	stats := c.broker.Stats()
	for _, m := range c.metrics {
		metrics <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(stats))
	}
	for reason, n := range stats.Dropped {
		metrics <- prometheus.MustNewConstMetric(c.dropped, prometheus.CounterValue, float64(n), reason.String())
	}
	for reason, n := range stats.Gaps {
		metrics <- prometheus.MustNewConstMetric(c.gaps, prometheus.CounterValue, float64(n), reason.String())
	}
	paths := c.broker.Paths()
	metrics <- prometheus.MustNewConstMetric(c.loss, prometheus.GaugeValue, paths.Loss)
	for quantile, rtt := range map[string]time.Duration{"0.5": paths.RTT50, "0.99": paths.RTT99} {
		metrics <- prometheus.MustNewConstMetric(c.rtt, prometheus.GaugeValue, rtt.Seconds(), quantile)
	}
}
